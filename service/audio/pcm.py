"""From samples as they are written to mono float32: raw encodings, and the mean of the channels."""

from __future__ import annotations

import functools
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from service.audio.formats import SAMPLE_BYTES, Encoding, RawFormat
from service.errors import CutSample, InvalidParameter, UndecodableAudio

Float32Array = npt.NDArray[np.float32]

MAX_AMPLITUDE = 8.0
"""Where float samples are clipped, in units of full scale (18 dB above it): the loudest that float files hold on purpose,
and so little that the resampler's sums stay finite. What is above 1 is clipped once more when it becomes int16."""


class MonoMixer:
    """Makes one channel of many: their mean, or the one that was picked.

    Args:
        channel: The channel to pick, from 0; None for the mean of all.
    """

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self._num_frames = 0

    def check(self, channels: int) -> None:
        """Check that the picked channel is there.

        Raises:
            InvalidParameter: It is not; ``param`` is ``channel``.
        """
        if self._channel is not None and not 0 <= self._channel < channels:
            allowed = f"0 to {channels - 1}" if channels > 1 else "0"
            raise InvalidParameter(
                f"channel is {self._channel}, the sound has {channels}: allowed is {allowed}", param="channel"
            )

    def mix(self, frames: Float32Array, *, is_bounded: bool = False) -> Float32Array:
        """Mix frames down.

        The sum is made in float64 and channel by channel, so that it depends neither on the memory's layout (decoders give
        planes or interleaved samples) nor on where the sound was cut, and so that large floats do not overflow.

        Args:
            frames: float32 `[n, channels]`, full scale is 1.
            is_bounded: Whether no sample can be above full scale, infinite or NaN: they were integers.

        Returns:
            float32 `[n]`, within ±`MAX_AMPLITUDE`; never a view of `frames`.

        Raises:
            UndecodableAudio: A sample is NaN or infinite; the message says which.
            InvalidParameter: The picked channel is not there.
        """
        channels = frames.shape[1]
        self.check(channels)
        picked = range(channels) if self._channel is None else range(self._channel, self._channel + 1)
        if len(picked) == 1:
            mixed: npt.NDArray[np.floating] = frames[:, picked[0]].astype(np.float32)  # one channel is its own mean
        else:
            mixed = np.zeros(len(frames))
            with np.errstate(invalid="ignore"):  # signalling NaNs, and the sum of both infinities: refused below
                for index in picked:
                    mixed += frames[:, index]
            mixed /= len(picked)
        if not is_bounded:
            finite = np.isfinite(mixed)
            if not finite.all():
                self._refuse(mixed, int(np.argmin(finite)))
            np.clip(mixed, -MAX_AMPLITUDE, MAX_AMPLITUDE, out=mixed)
        self._num_frames += len(mixed)
        return mixed.astype(np.float32, copy=False)

    def _refuse(self, mixed: npt.NDArray[np.floating], index: int) -> NoReturn:
        raise UndecodableAudio(
            f"sample {self._num_frames + index} is {mixed[index]}, expected are finite numbers (full scale is -1 to 1)"
        )


class PcmDecoder:
    """Decodes a raw stream, wherever it is cut.

    Args:
        format: What the bytes are.
        channel: The channel to pick, from 0; None for the mean of all.

    Raises:
        InvalidParameter: The format has no such channel.
    """

    def __init__(self, format: RawFormat, *, channel: int | None) -> None:
        self._format = format
        self._mixer = MonoMixer(channel)
        self._mixer.check(format.channels)
        self._rest = b""

    def push(self, data: bytes | memoryview) -> Float32Array:
        """Decode what is whole so far; keep the rest, less than one sample of every channel, for the next call.

        Returns:
            float32 `[n]`, mono, full scale is 1; owned by the caller.

        Raises:
            UndecodableAudio: A sample is NaN or infinite.
        """
        whole = self._rest + bytes(data) if self._rest else bytes(data)
        num_frames = len(whole) // self._format.frame_bytes
        self._rest = whole[num_frames * self._format.frame_bytes :]
        samples = decode_samples(self._format.encoding, whole[: num_frames * self._format.frame_bytes])
        if self._format.channels == 1 and self._format.encoding != "f32le":
            return samples  # one channel of integers: nothing to mix, to refuse or to clip
        return self._mixer.mix(samples.reshape(num_frames, self._format.channels))

    def finish(self) -> None:
        """Say that nothing more comes.

        Raises:
            CutSample: The stream ended inside a sample, or before every channel had one.
        """
        if self._rest:
            raise CutSample(
                f"the stream ended {len(self._rest)} bytes into a frame of {self._format.frame_bytes} "
                f"({self._format.encoding}, channels {self._format.channels}); what was whole has been scored"
            )


def decode_samples(encoding: Encoding, data: bytes) -> Float32Array:
    """Decode interleaved samples to float32 `[n]`, full scale is 1. ``len(data)`` is a multiple of a sample's size."""
    if encoding == "s16le":
        return np.frombuffer(data, "<i2") * np.float32(2**-15)
    if encoding == "s32le":
        return np.frombuffer(data, "<i4").astype(np.float32) * np.float32(2**-31)
    if encoding == "f32le":
        return np.frombuffer(data, "<f4").astype(np.float32)
    assert SAMPLE_BYTES[encoding] == 1
    table = _mulaw_table() if encoding == "mulaw" else _alaw_table()
    return table[np.frombuffer(data, np.uint8)]


@functools.cache
def _mulaw_table() -> Float32Array:
    """Every μ-law byte's value. Source: ITU-T G.711, table 2a, on a scale of 16 bits (bias 33 · 4 = 132)."""
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 0x0F).astype(np.int32) << 3) + 132 << (code >> 4 & 7)) - 132
    return (np.where(code & 0x80, -magnitude, magnitude) / 2**15).astype(np.float32)


@functools.cache
def _alaw_table() -> Float32Array:
    """Every A-law byte's value. Source: ITU-T G.711, table 1a, on a scale of 16 bits."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    segment = (code >> 4 & 7).astype(np.int32)
    step = ((code & 0x0F).astype(np.int32) << 4) + 8
    magnitude = np.where(segment == 0, step, (step + 256) << np.maximum(segment - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) / 2**15).astype(np.float32)
