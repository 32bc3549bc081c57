"""Which stretches of a sound are scored.

Windows end at k·hop (k = 1, 2, ...) and start at ``max(0, end - window)``, so the first ones are partial. At the end one
more window is added if sound came after the last one. With hop = window this is also how a clip is covered without a
hop: full windows side by side, the last one aligned to the end, and a short clip as one partial window.
All positions are samples at the model's rate, counted from the first one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Base64Bytes

Int16Array = npt.NDArray[np.int16]


_MAX_OLD_WINDOWS = 4
"""Of a piece that is longer, the part that nothing needs is let go of before its rest is."""
_MAX_PIECES = 32
"""More are put together: a stream may come sample by sample."""


@dataclass(frozen=True, slots=True)
class Span:
    """The samples ``start <= position < end``."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class WindowerState:
    """A windower as plain data.

    Attributes:
        hop_samples: Its hop now.
        received: Samples that were pushed or skipped.
        last_end: Where the last window ended.
        grid_from: From where on the hop holds.
        floor: No window starts before.
        samples: The last samples, int16 in this machine's order: those that windows to come need.
    """

    hop_samples: int
    received: int
    last_end: int
    grid_from: int
    floor: int
    samples: Base64Bytes


class SlidingWindower:
    """Cuts a growing waveform into windows and keeps only what windows still need.

    A span stays readable until `release` passes its start. The caller releases what it has read or given up.

    Args:
        window_samples: The longest window, above 0.
        hop_samples: Distance between window ends, from 1 to `window_samples`.
        min_samples: Spans shorter than this are not made: the model could say nothing about them.
    """

    def __init__(self, window_samples: int, hop_samples: int, min_samples: int = 1) -> None:
        if not 1 <= min_samples <= window_samples or not 1 <= hop_samples <= window_samples:
            raise ValueError(f"window {window_samples}, hop {hop_samples}, minimum {min_samples} samples do not fit together")
        self._window = window_samples
        self._hop = hop_samples
        self._min = min_samples
        self._received = 0
        self._last_end = 0
        self._grid_from = 0
        self._floor = 0
        self._kept_from = 0
        self._chunks: list[Int16Array] = []

    @property
    def received_samples(self) -> int:
        """How many samples were pushed."""
        return self._received

    @property
    def last_end(self) -> int:
        """Where the last window ended; 0 before the first."""
        return self._last_end

    def push(self, samples: Int16Array) -> list[Span]:
        """Take the next samples (int16 `[n]`, kept: they must not change) and return the windows that they complete."""
        if not len(samples):
            return []
        self._chunks.append(np.asarray(samples, dtype=np.int16))
        self._received += len(samples)
        spans = []
        while (end := self._next_end()) <= self._received:
            self._last_end = end
            span = Span(max(self._floor, end - self._window), end)
            if len(span) >= self._min:
                spans.append(span)
        return spans

    def flush(self) -> Span | None:
        """Return the window that ends now, or None when there is nothing new (or too little). The grid does not move."""
        span = Span(max(self._floor, self._received - self._window), self._received)
        if self._received == self._last_end or len(span) < self._min:
            return None
        self._last_end = self._received
        return span

    def skip(self, position: int) -> None:
        """The samples up to a position never come: no window ends in them or holds any, the next ones start behind them."""
        if position > self._received:
            self._chunks.append(np.zeros(position - self._received, np.int16))
            self._received = self._floor = position
            self._last_end = max(self._last_end, position)

    def snapshot(self) -> WindowerState:
        """Return all that windows to come depend on. Spans that are not yet read are lost."""
        needed = max(self._kept_from, min(self._received, max(self._floor, self._last_end + 1 - self._window, 0)))
        samples = self.read(Span(needed, self._received)) if self._chunks else np.zeros(0, np.int16)
        return WindowerState(
            self._hop, self._received, self._last_end, self._grid_from, self._floor, Base64Bytes(samples.tobytes())
        )

    def restore(self, state: WindowerState) -> None:
        """Go on where another windower, of the same window, stood.

        Raises:
            ValueError: The state is none of a windower of this size.
        """
        samples = np.frombuffer(state.samples, np.int16)
        if len(samples) > min(state.received, 2 * self._window) or not 1 <= state.hop_samples <= self._window:
            raise ValueError(f"{len(samples)} samples, hop {state.hop_samples} are none of a window of {self._window}")
        self._hop, self._received, self._last_end = state.hop_samples, state.received, state.last_end
        self._grid_from, self._floor = state.grid_from, state.floor
        self._kept_from = state.received - len(samples)
        self._chunks = [samples.copy()] if len(samples) else []

    def set_hop(self, hop_samples: int) -> None:
        """Use another hop from the next sample on: windows then end at its multiples."""
        if not 1 <= hop_samples <= self._window:
            raise ValueError(f"hop {hop_samples} does not fit a window of {self._window} samples")
        self._hop = hop_samples
        self._grid_from = self._received

    def read(self, span: Span) -> Int16Array:
        """Return a span's samples, int16 `[len(span)]`, which cannot be written and stay as they are; a view where they came in
        one piece.

        Raises:
            ValueError: Part of it was released or has not come yet.
        """
        if span.start < self._kept_from or span.end > self._received:
            raise ValueError(f"{span} is not kept: there is {self._kept_from} to {self._received}")
        parts = []
        start = self._kept_from
        for chunk in self._chunks:
            end = start + len(chunk)
            if start < span.end and span.start < end:
                parts.append(chunk[max(0, span.start - start) : span.end - start])
            start = end
        window = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int16), *parts])
        window.flags.writeable = False
        return window

    def release(self, position: int) -> None:
        """Forget what no window to come, and no span that starts at `position` or later, needs."""
        needed = min(position, max(0, self._last_end + 1 - self._window))
        while self._chunks and self._kept_from + len(self._chunks[0]) <= needed:
            self._kept_from += len(self._chunks.pop(0))
        num_old = max(0, needed - self._kept_from)
        if self._chunks and (num_old >= _MAX_OLD_WINDOWS * self._window or len(self._chunks) > _MAX_PIECES):
            self._chunks = [np.concatenate([self._chunks[0][num_old:], *self._chunks[1:]])]
            self._kept_from += num_old

    def _next_end(self) -> int:
        """The first multiple of the hop after the last window's end, and after where this hop came into force."""
        return (max(self._last_end, self._grid_from) // self._hop + 1) * self._hop
