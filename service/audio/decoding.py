"""Files of sound, whatever their container, as blocks of mono samples."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from service.audio.containers import ContainerDecoder, to_border
from service.audio.formats import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from service.audio.pcm import MonoMixer
from service.audio.recognition import IndexScanner, Recogniser
from service.audio.wav_header import read_plain_header

Float32Array = npt.NDArray[np.float32]

_CHUNK_BYTES = 65_536
_GATHER_SECONDS = 0.25
"""Nobody waits for the first frame of a file. More at once gains little, and would lose more before a broken sample."""
_LOSSLESS = frozenset({"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"})


class _Decoder(Protocol):
    sample_rate: int
    channels: int
    num_frames: int | None

    def blocks(self) -> Iterator[Float32Array]: ...
    def close(self) -> None: ...


class AudioFile:
    """An open file of sound; a context manager. One thread at a time uses it.

    Attributes:
        container: What the bytes are, by their first ones: ``wav``, ``flac``, ``mp3``, ``mp4``, ``webm``, ...
        sample_rate: Hz.
        channels: How many it has; the blocks are mono.
        num_frames: Samples of a channel: exact for uncompressed sound, what the header states otherwise (a codec's padding
            may add a tenth of a second), None where it states nothing. Good for progress and for refusing early, no more.
    """

    def __init__(self, decoder: _Decoder, container: str) -> None:
        self._decoder = decoder
        self.container = container
        self.sample_rate = decoder.sample_rate
        self.channels = decoder.channels
        self.num_frames = decoder.num_frames

    def blocks(self) -> Iterator[Float32Array]:
        """Yield the sound in order, float32 `[n]`, mono, full scale is 1, in blocks of one second (the last one shorter),
        owned by the caller. Memory does not grow with the file. Once only.

        Raises:
            UndecodableAudio: A sample is NaN or infinite, or nothing could be decoded.
        """
        waiting: list[Float32Array] = []
        num_waiting = 0
        for block in self._decoder.blocks():
            waiting.append(block)
            num_waiting += len(block)
            if num_waiting >= self.sample_rate:
                whole = np.concatenate(waiting)
                yield whole[: self.sample_rate]
                waiting = [whole[self.sample_rate :]]  # less than a second: no block is longer than that
                num_waiting = len(waiting[0])
        if num_waiting:
            yield np.concatenate(waiting)

    def close(self) -> None:
        """Release the decoder. The file itself stays open: whoever opened it closes it."""
        self._decoder.close()

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_audio(file: BinaryIO, *, channel: int | None) -> AudioFile:
    """Open a file of sound. What its bytes are decides, not its name.

    Uncompressed WAV whose header is beyond doubt goes through libsndfile, which states its exact length. All else goes
    through FFmpeg, in order and without seeking, so that a file and its stream give the same samples also where they are
    damaged or cut (FLAC too: libsndfile gives up on a damaged one where FFmpeg goes on; on a whole one they agree exactly).
    Only an MP4 whose index is at its end, and a CAF, whose packet table may be, are read with seeking. A file that breaks off
    gives what came before.

    Args:
        file: A seekable binary file, read from its start; it stays the caller's, who keeps it open as long as the result.
        channel: The channel to pick, from 0; None for the mean of all.

    Raises:
        UnsupportedAudio: It is empty, no sound, without an audio stream, or of a codec, sample rate or number of channels
            that is not read.
        UndecodableAudio: It is sound, but broken from the start.
        InvalidParameter: There is no such channel; ``param`` is ``channel``.
    """
    file.seek(0)
    recogniser = Recogniser()
    container = None
    while container is None:
        data = file.read(_CHUNK_BYTES)
        container = recogniser.push(data) if data else recogniser.finish()
    start = recogniser.offset
    if container == "wav" and _is_for_libsndfile(file, start):
        decoder = _open_lossless(file, start, channel)
        if decoder is not None:
            return AudioFile(decoder, container)
    is_seekable = container == "caf" or (container == "mp4" and _has_index_last(file, start))
    source = _SeekableSource(file, start) if is_seekable else _OrderedSource(file, start)
    return AudioFile(ContainerDecoder(source, container, channel=channel, at_once=_GATHER_SECONDS), container)


def _is_for_libsndfile(file: BinaryIO, start: int) -> bool:
    """A damaged header must not mean one thing in a file and another one in its stream; what FFmpeg does not read at all (RIFX,
    the big-endian WAV) cannot."""
    file.seek(start)
    return file.read(4) == b"RIFX" or read_plain_header(file, start) is not None


def _has_index_last(file: BinaryIO, start: int) -> bool:
    file.seek(start)
    scanner = IndexScanner()
    while (data := file.read(_CHUNK_BYTES)) and scanner.place is None:
        scanner.push(data)
    return scanner.place == "last"


class _OrderedSource:
    """Reads a file once, from front to back, as a stream would come."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        file.seek(start)
        self._file = file
        self._position = 0

    def read(self, size: int, /) -> bytes:
        data = self._file.read(to_border(size, self._position))
        self._position += len(data)
        return data


class _SeekableSource:
    """A file seen from `start` on. Seeking before that leaves it where it is, which libraries take for the error it is."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        file.seek(start)
        self._file = file
        self._start = start

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        data = self._file.read(len(buffer))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_CUR:
            offset += self._file.tell()
        elif whence == io.SEEK_END:
            offset += self._file.seek(0, io.SEEK_END)
        else:
            offset += self._start
        return self._file.seek(max(offset, self._start)) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start


def _open_lossless(file: BinaryIO, start: int, channel: int | None) -> _LosslessDecoder | None:
    """libsndfile's decoder for uncompressed sound that it can read, None for all else: then FFmpeg says what is wrong."""
    try:
        sound = soundfile.SoundFile(_SeekableSource(file, start))
    except soundfile.LibsndfileError:
        return None
    is_in_range = MIN_SAMPLE_RATE <= sound.samplerate <= MAX_SAMPLE_RATE and 1 <= sound.channels <= MAX_CHANNELS
    if sound.subtype in _LOSSLESS and sound.frames > 0 and is_in_range:
        return _LosslessDecoder(sound, channel)
    sound.close()
    return None


class _LosslessDecoder:
    """Reads uncompressed sound with libsndfile."""

    def __init__(self, sound: soundfile.SoundFile, channel: int | None) -> None:
        self._sound = sound
        self._mixer = MonoMixer(channel)
        self._mixer.check(sound.channels)
        self.sample_rate: int = sound.samplerate
        self.channels: int = sound.channels
        self.num_frames: int | None = sound.frames

    def blocks(self) -> Iterator[Float32Array]:
        while len(frames := self._sound.read(self.sample_rate, dtype="float32", always_2d=True)):
            yield self._mixer.mix(frames)

    def close(self) -> None:
        self._sound.close()
