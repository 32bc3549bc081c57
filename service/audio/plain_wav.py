"""Files of 16-bit samples, of which nothing has to be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from service.audio.formats import MAX_RAW_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, RawFormat
from service.audio.intake import RawIntake
from service.audio.stopwatch import Clock, Observe, Stopwatch
from service.audio.wav_header import WavHeader, is_last_sound, read_plain_header

Int16Array = npt.NDArray[np.int16]

_READ_BYTES = 262_144
"""Eight seconds at 16 kHz, of what is taken as it is."""
_READY_BYTES = 1024**2


class PlainWav:
    """A WAV of 16-bit samples: a `service.decoders.interface.ClipSound` that needs no decoder, as a stream of raw samples does.

    Args:
        file: As in `open_plain_wav`.
        header: Its header.
        channel: The channel to pick; None for the mean of all.
        target_rate: Hz of the samples to give.
        observe: Hears the seconds of ``decode`` and ``resample``.
        clock: Seconds, rising.

    Attributes:
        is_ready: Whether its samples are taken as they are, and are so few that reading them takes no time.
    """

    def __init__(
        self,
        file: IO[bytes],
        header: WavHeader,
        *,
        channel: int | None,
        target_rate: int,
        observe: Observe,
        clock: Clock,
    ) -> None:
        format = RawFormat("s16le", header.sample_rate, header.channels)
        self.sample_rate = header.sample_rate
        self.num_frames: int | None = header.data_bytes // format.frame_bytes
        self.num_read_bytes = header.data_start
        self._file = file
        self._end = header.data_start + header.data_bytes
        self._stopwatch = Stopwatch(observe, clock)
        self._intake: RawIntake | None = None
        self._piece_bytes = _READ_BYTES
        if header.channels > 1 or header.sample_rate != target_rate:
            self._intake = RawIntake(format, channel=channel, target_rate=target_rate, observe=observe, clock=clock)
            self._piece_bytes = format.frame_bytes * header.sample_rate
        self.is_ready = self._intake is None and header.data_bytes <= _READY_BYTES

    def samples(self) -> Iterator[Int16Array]:
        """See `ClipSound`."""
        self._file.seek(self.num_read_bytes)
        while data := self._read():
            if self._intake is not None:
                yield from self._intake.push(data)
                continue
            self._stopwatch.start()
            samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.int16, copy=False)
            self._stopwatch.lap("decode")
            self._stopwatch.report()
            yield samples
        if self._intake is not None:
            yield from self._intake.finish()

    def close(self) -> None:
        """See `ClipSound`."""

    def _read(self) -> bytes:
        data = self._file.read(min(self._piece_bytes, self._end - self.num_read_bytes))
        self.num_read_bytes += len(data)
        return data


def open_plain_wav(
    file: IO[bytes], *, channel: int | None, target_rate: int, observe: Observe, clock: Clock
) -> PlainWav | None:
    """Open a WAV of 16-bit samples that is beyond doubt and whole; its samples are those that a decoder gives.

    Args:
        file: Seekable; it stays the caller's, who keeps it open as long as the result.
        channel: The channel to pick; None for the mean of all.
        target_rate: Hz of the samples to give.
        observe: Hears the seconds of ``decode`` and ``resample``.
        clock: Seconds, rising.

    Returns:
        None for anything else, which is a decoder's: other samples, a header that readers might understand differently, sound
        that breaks off or goes on in another chunk, a channel that is not there.
    """
    header = read_plain_header(file, 0)
    if header is None or header.is_float or header.bits != 16:
        return None
    if not 1 <= header.channels <= MAX_RAW_CHANNELS or not MIN_SAMPLE_RATE <= header.sample_rate <= MAX_SAMPLE_RATE:
        return None
    if channel is not None and not 0 <= channel < header.channels:
        return None
    num_there = file.seek(0, 2) - header.data_start
    if not 0 < header.data_bytes <= num_there or header.data_bytes % (2 * header.channels) or not is_last_sound(file, header):
        return None
    return PlainWav(file, header, channel=channel, target_rate=target_rate, observe=observe, clock=clock)
