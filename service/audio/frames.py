"""FFmpeg's frames as arrays."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame

from service.errors import UnsupportedAudio

Float32Array = npt.NDArray[np.float32]
Samples = npt.NDArray[Any]

MAX_PLANES = 7
"""PyAV (measured: 18.1) counts the planes of a frame up to a null pointer. FFmpeg keeps eight pointers and promises no null
after the eighth: reading a planar frame of eight channels or more, such as 7.1 AAC, ends the process with a segmentation
fault. Such frames are interleaved by libswresample first, which copies samples and changes none."""

# A decoded sample's value at silence and its full scale.
_SCALES: dict[np.dtype[Any], tuple[float, float]] = {
    np.dtype(np.uint8): (128.0, 2.0**7),
    np.dtype(np.int16): (0.0, 2.0**15),
    np.dtype(np.int32): (0.0, 2.0**31),
    np.dtype(np.float32): (0.0, 1.0),
    np.dtype(np.float64): (0.0, 1.0),
}
_KINDS = ("u8", "s16", "s32", "flt", "dbl")
"""FFmpeg's names of these, in that order."""


def to_float(samples: Samples) -> Float32Array:
    """Return what `FrameReader` gave as float32, full scale is 1; perhaps not finite."""
    offset, full_scale = _SCALES[samples.dtype]
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 cannot hold becomes infinite; refused when mixed
        scaled: Float32Array = samples.astype(np.float32)
    if offset:
        scaled -= np.float32(offset)
    if full_scale != 1:
        scaled /= np.float32(full_scale)
    return scaled


class FrameReader:
    """Turns the frames of one stream into arrays `[n, channels]`."""

    def __init__(self) -> None:
        self._resampler: av.AudioResampler | None = None
        self._resampler_input: tuple[str, str, int] | None = None

    def read(self, frame: AudioFrame) -> Samples:
        """Return `[n, channels]`, of the type that the decoder writes; perhaps transposed in memory.

        Raises:
            UnsupportedAudio: The decoder writes samples of a kind that we do not read.
        """
        channels = frame.layout.nb_channels
        kind = frame.format.name.removesuffix("p")
        if kind not in _KINDS:
            raise UnsupportedAudio(f"the sound decodes to samples of the kind {kind}, which are not read")
        is_too_wide = frame.format.is_planar and channels > MAX_PLANES
        data = self._interleave(frame, kind) if is_too_wide else frame.to_ndarray()
        return data.T if len(data) == channels else data.reshape(-1, channels)

    def _interleave(self, frame: AudioFrame, kind: str) -> npt.NDArray[np.generic]:
        frame_input = (kind, frame.layout.name, frame.sample_rate)
        if self._resampler is None or self._resampler_input != frame_input:
            self._resampler = av.AudioResampler(format=kind)
            self._resampler_input = frame_input
        frame.pts = None  # frames go through one by one; times would only make the filter judge their gaps
        return np.concatenate([piece.to_ndarray() for piece in self._resampler.resample(frame)], axis=1)
