"""What is wrong with the sound of a stream itself: clipping, digital silence, a sample rate that cannot be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Int16Array = npt.NDArray[np.int16]

CLIPPED_SHARE = 0.001
"""Of a second's samples; below this a listener hears no distortion and there is nothing to correct."""
FULL_SCALE = 32767
SILENCE_SECONDS = 5
RATE_CHECK_SECONDS = 10.0
"""A real-time sender's clock, jitter and start-up burst average out over this long."""
RATE_TOLERANCE = 0.015
COMMON_RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to warn of."""

    code: Literal["clipping", "silence", "sample_rate_suspect"]
    message: str


@dataclass(frozen=True, slots=True)
class MonitorState:
    """A monitor as plain data."""

    in_second: int
    clipped: int
    loudest: int
    silent_seconds: int
    is_clipping: bool
    is_rate_checked: bool


class SignalMonitor:
    """Looks at every second of a stream; reports each kind of trouble once while it lasts.

    Args:
        sample_rate: Hz of what is pushed.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._in_second = 0
        self._clipped = 0
        self._loudest = 0
        self._silent_seconds = 0
        self._is_clipping = False
        self._is_rate_checked = False
        self._first_seconds: float | None = None

    def snapshot(self) -> MonitorState:
        """Return what was seen so far."""
        return MonitorState(
            self._in_second, self._clipped, self._loudest, self._silent_seconds, self._is_clipping, self._is_rate_checked
        )

    def restore(self, state: MonitorState) -> None:
        """Go on where another one stood. The speed at which sound comes is not looked at any more: it was interrupted."""
        self._in_second, self._clipped, self._loudest = state.in_second, state.clipped, state.loudest
        self._silent_seconds, self._is_clipping, self._is_rate_checked = state.silent_seconds, state.is_clipping, True

    def push(self, samples: Int16Array) -> list[Finding]:
        """Take the next samples (int16 `[n]`) and return what is newly wrong."""
        findings: list[Finding] = []
        while len(samples):
            left = self._rate - self._in_second
            part, samples = samples[:left], samples[left:]
            lowest, highest = int(np.minimum.reduce(part)), int(np.maximum.reduce(part))
            if lowest <= -FULL_SCALE or highest >= FULL_SCALE:  # seldom: the two reductions above are all that usually runs
                self._clipped += int(np.count_nonzero((part <= -FULL_SCALE) | (part >= FULL_SCALE)))
            self._loudest = max(self._loudest, highest, -lowest)
            self._in_second += len(part)
            if self._in_second == self._rate:
                findings += self._end_second()
        return findings

    def _end_second(self) -> list[Finding]:
        findings: list[Finding] = []
        was_clipping, self._is_clipping = self._is_clipping, self._clipped >= CLIPPED_SHARE * self._rate
        if self._is_clipping and not was_clipping:
            share = 100 * self._clipped / self._rate
            findings.append(Finding("clipping", f"{share:.1f} % of the last second's samples are at full scale"))
        self._silent_seconds = self._silent_seconds + 1 if self._loudest <= 1 else 0
        if self._silent_seconds == SILENCE_SECONDS:
            findings.append(Finding("silence", f"{SILENCE_SECONDS} s of digital silence: is the microphone muted?"))
        self._in_second = self._clipped = self._loudest = 0
        return findings

    def check_rate(self, declared: int, received_seconds: float, elapsed_seconds: float) -> list[Finding]:
        """Compare the sound received with the time it took, once.

        A stream may well be ahead of real time; only one that comes steadily at the speed of another common sample
        rate is suspect.

        Called for every piece, the first one included.

        Args:
            declared: Hz, what the client said.
            received_seconds: Sound received, at the declared rate.
            elapsed_seconds: Since its first sample.
        """
        if self._first_seconds is None:  # the first piece was recorded before the clock began to run
            self._first_seconds = received_seconds
        if self._is_rate_checked or elapsed_seconds < RATE_CHECK_SECONDS:
            return []
        self._is_rate_checked = True
        actual = declared * (received_seconds - self._first_seconds) / elapsed_seconds
        nearest = min(COMMON_RATES, key=lambda rate: abs(rate - actual))
        if abs(nearest - declared) <= 0.03 * declared or abs(actual - nearest) > RATE_TOLERANCE * nearest:
            return []
        message = f"{actual:.0f} samples a second come in, {declared} were declared: is it {nearest} Hz sound?"
        return [Finding("sample_rate_suspect", message)]
