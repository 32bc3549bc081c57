"""From one sample rate to another, and from float32 to int16: once, last."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from service.audio.formats import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from service.errors import UndecodableAudio

Float32Array = npt.NDArray[np.float32]
Int16Array = npt.NDArray[np.int16]
_LOWEST, _HIGHEST = np.float32(-(2**15)), np.float32(2**15 - 1)


class Resampler:
    """Resamples mono sound piece by piece; the samples do not depend on the pieces.

    soxr's quality is HQ (its default; pass band to 91 % of the lower Nyquist frequency). float32 in and out: its int16 mode
    dithers, and what it dithers depends on the pieces.

    Args:
        sample_rate: Hz of what comes in.
        target_rate: Hz of what goes out.
    """

    def __init__(self, sample_rate: int, target_rate: int) -> None:
        self._stream = None if sample_rate == target_rate else soxr.ResampleStream(sample_rate, target_rate, 1, dtype="float32")
        self._is_finished = False

    def push(self, samples: Float32Array) -> Int16Array:
        """Resample a piece. What comes out lags behind what went in by the filter's length (some milliseconds).

        Args:
            samples: float32 `[n]`, full scale is 1, finite; n may be 0.

        Returns:
            int16 `[m]`, owned by the caller; m may be 0.
        """
        if self._stream is None:
            return to_int16(samples)
        return to_int16(self._stream.resample_chunk(np.ascontiguousarray(samples, dtype=np.float32)))

    def finish(self) -> Int16Array:
        """Return what the filter still held, int16 `[m]`. A second call returns nothing."""
        if self._stream is None or self._is_finished:
            return np.zeros(0, np.int16)
        self._is_finished = True
        return to_int16(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))


class RateBridge:
    """Keeps a stream at the rate it began with, where the rate changes on the way (chained OGG, joined MP3).

    Args:
        sample_rate: Hz of what goes out.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._current_rate = sample_rate
        self._stream: soxr.ResampleStream | None = None

    def push(self, samples: Float32Array, sample_rate: int) -> Float32Array:
        """Return float32 `[m]` at the first rate for float32 `[n]` at this one.

        Raises:
            UndecodableAudio: The rate is out of range.
        """
        if sample_rate == self._current_rate:
            return samples if self._stream is None else self._stream.resample_chunk(samples)
        if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
            raise UndecodableAudio(
                f"the sample rate changes from {self._current_rate} to {sample_rate} Hz on the way, allowed is "
                f"{MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
            )
        rest = self.finish()
        self._current_rate = sample_rate
        if sample_rate != self._sample_rate:
            self._stream = soxr.ResampleStream(sample_rate, self._sample_rate, 1, dtype="float32")
        return np.concatenate([rest, self.push(samples, sample_rate)])

    def finish(self) -> Float32Array:
        """Return what is held, float32 `[m]`."""
        stream, self._stream = self._stream, None
        empty = np.zeros(0, np.float32)
        return empty if stream is None else stream.resample_chunk(empty, last=True)


def to_int16(samples: Float32Array) -> Int16Array:
    """Round float32 `[n]` (full scale is 1) half to even and clip it to int16 `[n]`."""
    scaled: Float32Array = samples * np.float32(2**15)
    np.rint(scaled, out=scaled)
    scaled.clip(_LOWEST, _HIGHEST, out=scaled)
    return scaled.astype(np.int16)
