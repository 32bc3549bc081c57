"""Containers, decoded in order by PyAV (FFmpeg): one code for a file and for its stream."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from service.audio.formats import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from service.audio.frames import FrameReader, Samples, to_float
from service.audio.pcm import MonoMixer
from service.audio.resampling import RateBridge
from service.errors import DecodingFailed, UndecodableAudio, UnsupportedAudio

Float32Array = npt.NDArray[np.float32]

READ_BYTES = 256
"""FFmpeg reads up to these borders, counted from the start, and never across one. A file and its stream in any pieces so
make the same reads, which is what makes their samples equal: demuxers do step back a few bytes, and without seeking they
can only do so within one read (measured: reads under 40 bytes lose frames of MP3 and fragments of MP4, whose samples do
not change from 64 bytes on). Small, because a live decoder waits for them: 64 ms at 32 kbit/s."""


def to_border(size: int, position: int) -> int:
    """Return how many of ``size`` bytes are read at a position: up to the next border, and never across one."""
    return min(size, READ_BYTES - position % READ_BYTES)


class ByteSource(Protocol):
    """What FFmpeg reads from: a file, or the pipe of a live stream. Only `seek` and `tell` too make it seekable."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class _Demuxer:
    """How FFmpeg reads a container: its demuxer, and how much sound (microseconds) it may look at before it begins.

    0.1 s is enough where the header or the first frame says what follows, and starts a live MP3 after 3.5 KB instead of 22.
    Where streams may turn up late (FLV, transport streams), FFmpeg's own 5 s stay.
    """

    name: str
    analyze_us: int = 100_000


_DEMUXERS: dict[str, _Demuxer] = {
    "wav": _Demuxer("wav"),
    "rf64": _Demuxer("wav"),
    "w64": _Demuxer("w64"),
    "aiff": _Demuxer("aiff"),
    "au": _Demuxer("au"),
    "caf": _Demuxer("caf"),
    "flac": _Demuxer("flac"),
    "ogg": _Demuxer("ogg"),
    "mp3": _Demuxer("mp3"),
    "aac": _Demuxer("aac"),
    "ac3": _Demuxer("ac3"),
    "amr": _Demuxer("amr"),
    "webm": _Demuxer("matroska"),
    "mp4": _Demuxer("mov"),
    "wavpack": _Demuxer("wv"),
    "tta": _Demuxer("tta"),
    "ape": _Demuxer("ape"),
    "asf": _Demuxer("asf", 5_000_000),
    "avi": _Demuxer("avi", 5_000_000),
    "flv": _Demuxer("flv", 5_000_000),
    "mpegts": _Demuxer("mpegts", 5_000_000),
}

# The decoders that may run. FFmpeg opens decoders for cover art and video while it looks at a file; none of them is needed.
_CODECS = (
    "aac,aac_latm,mp3,mp3float,mp2,mp2float,opus,libopus,vorbis,libvorbis,flac,alac,ac3,eac3,dca,amrnb,amrwb,wmav1,wmav2,"
    "wmapro,wmalossless,wavpack,tta,ape,speex,libspeex,gsm,gsm_ms,g722,g726,g729,ilbc,nellymoser,adpcm_ms,adpcm_ima_wav,"
    "adpcm_ima_qt,adpcm_yamaha,adpcm_swf,mace3,mace6,qdm2,pcm_alaw,pcm_mulaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,"
    "pcm_u16le,pcm_u16be,pcm_s24le,pcm_s24be,pcm_u24le,pcm_u24be,pcm_s32le,pcm_s32be,pcm_u32le,pcm_u32be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,pcm_s16le_planar"
)


class ContainerDecoder:
    """Decodes the first audio stream of a container to mono blocks.

    Damage: a packet that cannot be decoded is left out, and a file that breaks off gives what came before, as FFmpeg itself
    does; only where nothing at all can be decoded it is an error. A sample rate that changes on the way (chained OGG,
    joined MP3) is resampled to the first one; channels may change, the mean is over those that are there.

    One thread at a time uses it, the one that made it included, since making it reads.

    Args:
        source: Where the bytes come from; the caller closes it.
        container: What they are (`service.audio.formats.sniff`).
        channel: The channel to pick, from 0; None for the mean of all.
        at_once: Seconds of sound that are worked on together. FFmpeg's frames are of 20 ms, say, and each by itself costs as
            much as several together; who waits for the first of them wants 0.

    Attributes:
        sample_rate: Hz of the blocks.
        channels: How many channels the first frame has.
        num_frames: Samples of a channel as the header states them, rounded where it states seconds; None where it is silent.

    Raises:
        UnsupportedAudio: There is no audio stream that we decode, or its sample rate or channels are out of range.
        UndecodableAudio: The container is broken from the start.
        DecodingFailed: FFmpeg has no memory left for it.
        InvalidParameter: There is no such channel.
    """

    def __init__(self, source: ByteSource, container: str, *, channel: int | None, at_once: float = 0.0) -> None:
        self._name = container
        self._at_once = at_once
        self._reader = FrameReader()
        self._mixer = MonoMixer(channel)
        self._has_damage = False
        self._lacks_memory = False
        self._container = _open(source, container)
        self._frames: Generator[AudioFrame, None, None] | None = None
        try:
            self._frames = self._decode(self._choose_stream())
            self._first = next(self._frames, None)
            self._check_memory()
            if self._first is not None:
                self.sample_rate, self.channels = self._first.sample_rate, self._first.layout.nb_channels
            elif self._has_damage:
                _refuse(container)
            self._check_format()
        except BaseException:
            self.close()
            raise
        self._bridge = RateBridge(self.sample_rate)

    def blocks(self) -> Iterator[Float32Array]:
        """Yield float32 `[n]`, mono, full scale is 1, n at most `sample_rate`; of `at_once` seconds, or as small as FFmpeg's
        frames. Once only.

        Raises:
            UndecodableAudio: A sample is NaN or infinite, or the sample rate changes to one out of range.
            DecodingFailed: FFmpeg has no memory left to go on.
        """
        for samples, sample_rate in self._gather(round(self._at_once * self.sample_rate)):
            mono = self._mixer.mix(to_float(samples), is_bounded=samples.dtype.kind in "iu")
            yield from self._cut(self._bridge.push(mono, sample_rate))
        self._check_memory()
        yield from self._cut(self._bridge.finish())

    def close(self) -> None:
        """Release FFmpeg's memory, at once: it counts up to 200 MB for a damaged ALAC, and an error's traceback, which Python's
        collector may get to much later, holds this object."""
        if self._frames is not None:
            self._frames.close()
        self._first = None
        self._container.close()

    def _choose_stream(self) -> AudioStream:
        if not self._container.streams.audio:
            raise UnsupportedAudio(f"the {self._name} container holds no sound")
        stream = self._container.streams.audio[0]
        codec = None if stream.codec_context is None else stream.codec_context.codec.name
        if codec is None or codec not in _CODECS.split(","):
            raise UnsupportedAudio(f"the sound in the {self._name} container is written with {codec or 'an unknown codec'}")
        stream.codec_context.thread_count = 1
        self.sample_rate = stream.codec_context.sample_rate
        self.channels = stream.codec_context.channels
        self.num_frames = self._stated_frames(stream)
        return stream

    def _stated_frames(self, stream: AudioStream) -> int | None:
        if self._name == "mp4" and not stream.frames:
            return None  # fragmented: the header states its first fragment
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        else:
            seconds = (self._container.duration or 0) / 1_000_000
        return round(seconds * self.sample_rate) if seconds > 0 else None

    def _check_format(self) -> None:
        if not MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE:
            raise UnsupportedAudio(
                f"the sample rate is {self.sample_rate} Hz, allowed is {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise UnsupportedAudio(f"the sound has {self.channels} channels, allowed is 1 to {MAX_CHANNELS}")
        self._mixer.check(self.channels)

    def _gather(self, num_samples: int) -> Iterator[tuple[Samples, int]]:
        """Yield the sound in pieces of at least so many samples that are of one kind, shorter where that changes, with their
        sample rates."""
        assert self._frames is not None
        first, self._first = self._first, None
        pieces: list[Samples] = []
        num_gathered, sample_rate = 0, self.sample_rate
        for frame in itertools.chain([] if first is None else [first], self._frames):
            samples = self._reader.read(frame)
            if pieces and (frame.sample_rate, *_kind(samples)) != (sample_rate, *_kind(pieces[0])):
                yield _join(pieces), sample_rate
                pieces, num_gathered = [], 0
            pieces.append(samples)
            num_gathered, sample_rate = num_gathered + len(samples), frame.sample_rate
            if num_gathered >= num_samples:
                yield _join(pieces), sample_rate
                pieces, num_gathered = [], 0
        if pieces:
            yield _join(pieces), sample_rate

    def _note(self, error: Exception) -> None:
        self._lacks_memory = self._lacks_memory or isinstance(error, MemoryError)
        self._has_damage = True

    def _check_memory(self) -> None:
        if self._lacks_memory:
            _refuse(self._name, MemoryError())

    def _decode(self, stream: AudioStream) -> Generator[AudioFrame, None, None]:
        """Yield frames that hold samples; leave out packets that cannot be decoded, and note that there were some. Without
        memory it ends, and notes that: what is left out then may be whole.

        It raises nothing and alone holds the stream, so that no traceback keeps the decoder's memory (see `close`).
        """
        for packet in itertools.takewhile(lambda _: not self._lacks_memory, self._read(stream)):
            try:
                frames = stream.decode(packet)
            except av.error.FFmpegError as error:
                self._note(error)
                continue
            yield from (frame for frame in frames if frame.samples)

    def _read(self, stream: AudioStream) -> Iterator[Packet[AudioStream] | None]:
        """Yield packets; the last one, or None where the container breaks off, takes out what the decoder still holds."""
        try:
            yield from self._container.demux(stream)
        except (av.error.FFmpegError, IndexError) as error:  # IndexError: PyAV at the end, where streams turned up late
            self._note(error)
            yield None

    def _cut(self, block: Float32Array) -> Iterator[Float32Array]:
        for start in range(0, len(block), self.sample_rate):
            yield block[start : start + self.sample_rate]


def _kind(samples: Samples) -> tuple[np.dtype[Any], int]:
    return samples.dtype, samples.shape[1]


def _join(pieces: list[Samples]) -> Samples:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _open(source: ByteSource, container: str) -> InputContainer:
    demuxer = _DEMUXERS[container]
    options = {
        "analyzeduration": str(demuxer.analyze_us),
        "max_probe_packets": "1",  # 32 packets of PCM (1.3 s) otherwise, in search of DTS that calls itself PCM
        "codec_whitelist": _CODECS,
        "protocol_whitelist": "none",  # a container that names other files or addresses gets none of them
    }
    try:
        return av.open(source, "r", format=demuxer.name, container_options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        _refuse(container, error)


def _refuse(container: str, error: Exception | None = None) -> NoReturn:
    if isinstance(error, MemoryError):
        raise DecodingFailed(f"decoding this {container} needs more memory than there is") from error
    raise UndecodableAudio(f"the bytes are {container}, but cannot be decoded: they are incomplete or damaged") from error
