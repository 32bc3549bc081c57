"""What the service asks of decoders, wherever they run; and decoders in this process, for a user's own files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import IO, BinaryIO, Protocol, cast

import numpy as np
import numpy.typing as npt

from service.audio.decoding import AudioFile, open_audio
from service.audio.intake import StreamDecoder, file_samples
from service.audio.pipe import DecoderThread
from service.audio.stopwatch import Observe

Int16Array = npt.NDArray[np.int16]


class ClipSound(Protocol):
    """An open file of sound. One thread at a time uses it."""

    @property
    def sample_rate(self) -> int:
        """Hz of the file."""
        ...

    @property
    def num_frames(self) -> int | None:
        """Samples of a channel, as the header states them; None where it states nothing."""
        ...

    @property
    def num_read_bytes(self) -> int:
        """How far the file is read."""
        ...

    def samples(self) -> Iterator[Int16Array]:
        """Yield the sound at the rate that was asked for, int16 `[n]`, n > 0, in pieces of about a second. Once only.

        Raises:
            UndecodableAudio, DecodingFailed: It cannot be decoded, or no further.
        """
        ...

    def close(self) -> None:
        """Give it up. The file stays its opener's."""
        ...


class Decoders(Protocol):
    """Opens files and streams of sound."""

    def start(self) -> None:
        """Have one ready, so that the first file waits for none. It blocks.

        Raises:
            Unavailable: The system lets no process be made.
        """
        ...

    def check_line(self) -> None:
        """Refuse a file that would be refused its turn if it asked now.

        Raises:
            QueueFull: The line is too long.
        """
        ...

    def turn(self, *, is_patient: bool = False) -> AbstractAsyncContextManager[None]:
        """Wait for a turn to decode a file, and hold it for as long as the context is open.

        Args:
            is_patient: Wait also where there is a long line already.

        Raises:
            QueueFull: The line is too long, or did not move.
        """
        ...

    def open_file(self, file: IO[bytes], *, channel: int | None, target_rate: int, observe: Observe) -> ClipSound:
        """Open a file of sound, in a turn. It blocks: it belongs into a thread.

        Args:
            file: Seekable; it stays the caller's, who keeps it open as long as the result.
            channel: The channel to pick; None for the mean of all.
            target_rate: Hz of the samples to give.
            observe: Hears the seconds of ``decode`` and ``resample``.

        Raises:
            UnsupportedAudio, UndecodableAudio, InvalidParameter: See `service.audio.decoding.open_audio`.
            DecodingFailed: The decoder crashed or could not be done with it.
            Unavailable: There is no decoder.
        """
        ...

    def stream_decoder(self, *, channel: int | None) -> StreamDecoder:
        """Return a decoder for one stream; its `start` may raise QueueFull and Unavailable."""
        ...


class LocalDecoders:
    """Decodes in this process, for commands: the files are the user's own, and what they cost is seen at once."""

    def start(self) -> None:
        """See `Decoders`."""

    def check_line(self) -> None:
        """See `Decoders`. There is none."""

    def turn(self, *, is_patient: bool = False) -> AbstractAsyncContextManager[None]:
        """See `Decoders`. There is always one."""
        return nullcontext()

    def open_file(self, file: IO[bytes], *, channel: int | None, target_rate: int, observe: Observe) -> ClipSound:
        """See `Decoders`."""
        return _LocalSound(file, open_audio(cast(BinaryIO, file), channel=channel), target_rate, observe)

    def stream_decoder(self, *, channel: int | None) -> StreamDecoder:
        """See `Decoders`."""
        return DecoderThread(channel=channel)


class _LocalSound:
    def __init__(self, file: IO[bytes], audio: AudioFile, target_rate: int, observe: Observe) -> None:
        self.sample_rate = audio.sample_rate
        self.num_frames = audio.num_frames
        self._file = file
        self._audio = audio
        self._samples = file_samples(audio, target_rate, observe, time.perf_counter)

    @property
    def num_read_bytes(self) -> int:
        return self._file.tell()

    def samples(self) -> Iterator[Int16Array]:
        return self._samples

    def close(self) -> None:
        self._audio.close()
