"""From the bytes of a stream, or a file's blocks, to the int16 samples that the model takes. Any cutting, same samples."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from service.audio.decoding import AudioFile
from service.audio.formats import RawFormat
from service.audio.pcm import PcmDecoder
from service.audio.pipe import DecoderThread
from service.audio.recognition import IndexScanner, Recogniser
from service.audio.resampling import Resampler
from service.audio.stopwatch import Clock, Observe, Stopwatch
from service.errors import NotStreamable

Int16Array = npt.NDArray[np.int16]
Float32Array = npt.NDArray[np.float32]


class Intake(Protocol):
    """Takes a stream's bytes and gives the model's samples.

    One thread at a time calls `push` and `finish`, and iterates what they return to its end: nothing happens before. They
    block while they decode, so they belong into a pool. `close` is for any thread.
    """

    @property
    def sample_rate(self) -> int | None:
        """Hz of the source; None until it is known."""
        ...

    @property
    def channels(self) -> int | None:
        """Channels of the source; None until they are known."""
        ...

    def push(self, data: bytes) -> Iterator[Int16Array]:
        """Yield all that is decoded with these bytes, int16 `[m]`, m > 0, in pieces of about a second at most two.

        A caller may pause between pieces: nothing grows meanwhile.

        Raises:
            UnsupportedAudio, NotStreamable, UndecodableAudio, InvalidParameter: The stream cannot be decoded, or no further.
        """
        ...

    def finish(self) -> Iterator[Int16Array]:
        """End of the stream: yield what decoder and resampler still hold. A second call yields nothing.

        Raises:
            CutSample: The last sample was incomplete; raised after all that was whole has been yielded.
            UnsupportedAudio, UndecodableAudio, InvalidParameter: As in `push`.
        """
        ...

    def close(self) -> None:
        """Give everything up, also a decoder that waits. Idempotent; later calls of the others yield nothing."""
        ...


class StreamDecoder(Protocol):
    """Decodes a container that is pushed; see `service.audio.pipe.DecoderThread` for the laws of it."""

    @property
    def sample_rate(self) -> int | None:
        """Hz; None until the decoder knows it, which is before its first sound is taken."""
        ...

    @property
    def channels(self) -> int | None:
        """Likewise."""
        ...

    def start(self, container: str) -> None:
        """Begin, once: the bytes are this container. After `close` nothing starts."""
        ...

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """Hand over bytes; what comes after the decoder's end is dropped."""
        ...

    def end(self) -> None:
        """Say that no bytes follow."""
        ...

    def take(self) -> Float32Array | None:
        """Wait for sound, float32 `[n]`, at most two seconds of it; None when all that was pushed is decoded.

        Raises:
            ServiceError: What ended the decoder, once its sound is taken, each time.
        """
        ...

    def close(self) -> None:
        """Let it go, from any thread, at any time. Sound not yet taken is lost."""
        ...


class MakeDecoder(Protocol):
    """Makes a `StreamDecoder` for one stream."""

    def __call__(self, *, channel: int | None) -> StreamDecoder:
        """Return a new one that picks a channel, or takes the mean of all."""
        ...


class RawIntake:
    """An `Intake` for a stream of raw samples.

    Args:
        format: What the bytes are.
        channel: The channel to pick, from 0; None for the mean of all.
        target_rate: Hz of the samples to give.
        observe: Hears the seconds of ``decode`` and ``resample``, once for each push.
        clock: Seconds, rising; without it nothing is measured.

    Raises:
        InvalidParameter: The format has no such channel.
    """

    def __init__(
        self,
        format: RawFormat,
        *,
        channel: int | None,
        target_rate: int,
        observe: Observe | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.sample_rate: int | None = format.sample_rate
        self.channels: int | None = format.channels
        self._decoder = PcmDecoder(format, channel=channel)
        self._resampler = Resampler(format.sample_rate, target_rate)
        self._stopwatch = Stopwatch(observe, clock)
        self._piece_bytes = format.frame_bytes * format.sample_rate
        self._is_finished = False

    def push(self, data: bytes) -> Iterator[Int16Array]:
        """See `Intake.push`. Raises UndecodableAudio where a float sample is NaN or infinite."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), self._piece_bytes):
                if self._is_finished:
                    return
                self._stopwatch.start()
                samples = self._decoder.push(view[start : start + self._piece_bytes])
                self._stopwatch.lap("decode")
                resampled = self._resampler.push(samples)
                self._stopwatch.lap("resample")
                if len(resampled):
                    yield resampled
        finally:
            self._stopwatch.report()

    def finish(self) -> Iterator[Int16Array]:
        """See `Intake.finish`. Raises CutSample after the last whole sample was yielded."""
        if self._is_finished:
            return
        self._is_finished = True
        self._stopwatch.start()
        resampled = self._resampler.finish()
        self._stopwatch.lap("resample")
        self._stopwatch.report()
        if len(resampled):
            yield resampled
        self._decoder.finish()

    def close(self) -> None:
        """See `Intake.close`."""
        self._is_finished = True


class ContainerIntake:
    """An `Intake` for a stream that is a container (`encoding=auto`): what its first bytes are decides.

    Its decoder ends with the stream, with `close`, or when nobody holds the intake any more.

    Args:
        channel: The channel to pick, from 0; None for the mean of all.
        target_rate: Hz of the samples to give.
        observe: Hears the seconds of ``decode`` and ``resample``, once for each push.
        clock: Seconds, rising; without it nothing is measured.
        make_decoder: Gives the decoder, which then belongs to this intake; by default a thread of this process.
    """

    def __init__(
        self,
        *,
        channel: int | None,
        target_rate: int,
        observe: Observe | None = None,
        clock: Clock | None = None,
        make_decoder: MakeDecoder = DecoderThread,
    ) -> None:
        self._target_rate = target_rate
        self._stopwatch = Stopwatch(observe, clock)
        self._recogniser = Recogniser()
        self._scanner: IndexScanner | None = None
        self._decoder = make_decoder(channel=channel)
        self._resampler: Resampler | None = None
        self._is_started = False
        self._is_finished = False
        weakref.finalize(self, self._decoder.close)

    @property
    def container(self) -> str | None:
        """What the stream is; None until its first bytes told."""
        return self._recogniser.container

    @property
    def sample_rate(self) -> int | None:
        """Hz of the source; None until it is known."""
        return self._decoder.sample_rate

    @property
    def channels(self) -> int | None:
        """Channels of the source; None until they are known."""
        return self._decoder.channels

    def push(self, data: bytes) -> Iterator[Int16Array]:
        """See `Intake.push`.

        Raises:
            UnsupportedAudio: The first bytes are no sound that we know, or the container holds none.
            NotStreamable: An MP4 whose index comes after its sound, or a CAF.
            UndecodableAudio: Nothing of it can be decoded, or a sample is NaN or infinite.
            InvalidParameter: There is no such channel.
        """
        if self._is_finished:
            return
        if self._is_started:
            self._scan(data)
            self._decoder.push(data)
        elif (container := self._recogniser.push(data)) is not None:
            self._start(container)
        if self._is_started:
            yield from self._drain()

    def finish(self) -> Iterator[Int16Array]:
        """See `Intake.finish`. A stream of no bytes at all yields nothing and is no error."""
        if self._is_finished:
            return
        if not self._is_started and (self._recogniser.head or self._recogniser.offset):
            self._start(self._recogniser.finish())
        self._decoder.end()
        if self._is_started:
            yield from self._drain()
        self._is_finished = True
        if self._resampler is not None and len(rest := self._resampler.finish()):
            yield rest

    def close(self) -> None:
        """See `Intake.close`."""
        self._is_finished = True
        self._decoder.close()

    def _start(self, container: str) -> None:
        if container == "caf":
            self.close()
            raise NotStreamable(
                "a CAF may have its packet table after its sound and wants seeking; send it as a file, or stream another "
                "container or raw samples"
            )
        if container == "mp4":
            self._scanner = IndexScanner()
        self._scan(self._recogniser.head)
        self._is_started = True
        self._decoder.start(container)
        self._decoder.push(self._recogniser.head)
        self._recogniser.head = bytearray()

    def _scan(self, data: bytes | bytearray) -> None:
        if self._scanner is not None and self._scanner.push(data) == "last":
            self.close()
            raise NotStreamable(
                "the MP4 has its sound (mdat) before its index (moov), so that no sound can be decoded before the stream ends: "
                "write it with the index first (ffmpeg: -movflags +faststart, or +frag_keyframe+empty_moov for live sound), "
                "or send it as a file"
            )

    def _drain(self) -> Iterator[Int16Array]:
        try:
            while True:
                self._stopwatch.start()
                samples = self._decoder.take()
                self._stopwatch.lap("decode")
                if samples is None:
                    return
                if self._resampler is None:
                    assert self._decoder.sample_rate is not None
                    self._resampler = Resampler(self._decoder.sample_rate, self._target_rate)
                resampled = self._resampler.push(samples)
                self._stopwatch.lap("resample")
                if len(resampled):
                    yield resampled
        finally:
            self._stopwatch.report()


def file_samples(
    audio: AudioFile, target_rate: int, observe: Observe | None = None, clock: Clock | None = None
) -> Iterator[Int16Array]:
    """Decode and resample a file, int16 `[m]`, m > 0, in pieces of about a second; the same samples as its stream gives.

    Args:
        audio: An open file, from its start; the caller closes it.
        target_rate: Hz of the samples to give.
        observe: Hears the seconds of ``decode`` and ``resample``, once for each piece.
        clock: Seconds, rising; without it nothing is measured.

    Raises:
        UndecodableAudio: Nothing of it can be decoded, or a sample is NaN or infinite.
    """
    stopwatch = Stopwatch(observe, clock)
    resampler = Resampler(audio.sample_rate, target_rate)
    blocks = audio.blocks()
    while True:
        stopwatch.start()
        block = next(blocks, None)
        stopwatch.lap("decode")
        resampled = resampler.finish() if block is None else resampler.push(block)
        stopwatch.lap("resample")
        stopwatch.report()
        if len(resampled):
            yield resampled
        if block is None:
            return
