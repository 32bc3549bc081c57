"""The sounds that an export is checked on: one real, the others hard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from export.architecture import FRAME_SAMPLES, SAMPLE_RATE

SPEECH_FILE = Path(__file__).with_name("speech.wav")
"""16 kHz mono, rendered with espeak-ng for this project."""
Int16 = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Signal:
    """A sound of any length; int16 `[samples]` at 16 kHz."""

    name: str
    samples: Int16


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one window each: int16 `[n, window_samples]` and int64 `[n]`."""

    waveform: Int16
    lengths: npt.NDArray[np.int64]


def read_speech() -> Int16:
    """Return the sentence that ships with this package."""
    samples, _ = soundfile.read(SPEECH_FILE, dtype="int16")
    return np.asarray(samples, dtype=np.int16)


def check_signals(window_samples: int) -> tuple[Signal, ...]:
    """Return the signals that every exported graph must get right.

    Args:
        window_samples: The window of the graph; all but the short and the over-long signal fit it.
    """
    speech = read_speech()
    window = np.arange(window_samples)
    generator = np.random.default_rng(20)
    offset = np.clip(speech[:window_samples].astype(np.int32) // 2 + 12_000, -32_768, 32_767)
    return (
        Signal("speech", speech[:window_samples]),
        Signal("DC offset", offset.astype(np.int16)),
        Signal("silence", np.zeros(window_samples, np.int16)),
        Signal("full-scale square", np.where(window // 18 % 2, 32_767, -32_768).astype(np.int16)),
        Signal("1-LSB noise", generator.integers(-1, 2, window_samples).astype(np.int16)),
        Signal("0.1 s", speech[SAMPLE_RATE // 2 :][: min(SAMPLE_RATE // 10, window_samples)]),
        Signal("over-long", repeat(speech, window_samples + window_samples // 2)),
    )


def golden_signals(window_samples: int) -> tuple[Signal, ...]:
    """Return the sounds whose scores a bundle carries: speech whole, short, filling the window, and under a tone."""
    speech = read_speech()
    whole = repeat(speech[SAMPLE_RATE:], window_samples)
    tone = 3_000.0 * np.sin(2.0 * np.pi * 1_000.0 * np.arange(len(whole)) / SAMPLE_RATE)
    return (
        Signal("speech", speech[:window_samples]),
        Signal("0.5 s", speech[SAMPLE_RATE // 2 : SAMPLE_RATE][:window_samples]),
        Signal("speech in every frame", whole),
        Signal("speech under a tone", (whole // 2 + np.rint(tone)).astype(np.int16)),
    )


def repeat(samples: Int16, num_samples: int) -> Int16:
    """Return `num_samples` of a sound, repeated as often as that takes."""
    return np.resize(samples, num_samples)


def stack(signals: tuple[Signal, ...], window_samples: int, *, rest: Int16 | None = None) -> Batch:
    """Lay signals into rows, cropped to the window.

    Args:
        signals: One a row, each at least a frame long.
        window_samples: Length of a row.
        rest: What lies past the end of a signal, `[window_samples]`; zeros where it is None. A graph must ignore it.
    """
    waveform = np.zeros((len(signals), window_samples), np.int16)
    if rest is not None:
        waveform[:] = rest
    lengths = np.array([min(len(signal.samples), window_samples) for signal in signals], np.int64)
    if lengths.min() < FRAME_SAMPLES:
        raise ValueError("a signal is shorter than one frame")
    for row, signal, length in zip(waveform, signals, lengths, strict=True):
        row[:length] = signal.samples[:length]
    return Batch(waveform, lengths)
