"""Containers, decoded in order by PyAV (FFmpeg): one code for a file and for its stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

import av
import av.error
import numpy as np
import numpy.typing as npt
import soxr
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from service.audio.formats import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from service.audio.frames import FrameReader
from service.audio.pcm import MonoMixer
from service.errors import UndecodableAudio, UnsupportedAudio

Float32Array = npt.NDArray[np.float32]

MAX_CHANNELS = 32
"""Channels of a container: third-order ambisonics has 16, the widest cinema beds 24."""

READ_BYTES = 256
"""FFmpeg reads up to these borders, counted from the start, and never across one. A file and its stream in any pieces so
make the same reads, which is what makes their samples equal: demuxers do step back a few bytes, and without seeking they
can only do so within one read (measured: reads under 40 bytes lose frames of MP3 and fragments of MP4, whose samples do
not change from 64 bytes on). Small, because a live decoder waits for them: 64 ms at 32 kbit/s."""


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

    Attributes:
        sample_rate: Hz of the blocks.
        channels: How many channels the first frame has.
        num_frames: Samples of a channel as the header states them, rounded where it states seconds; None where it is silent.

    Raises:
        UnsupportedAudio: There is no audio stream that we decode, or its sample rate or channels are out of range.
        UndecodableAudio: The container is broken from the start.
        InvalidParameter: There is no such channel.
    """

    def __init__(self, source: ByteSource, container: str, *, channel: int | None) -> None:
        self._name = container
        self._reader = FrameReader()
        self._mixer = MonoMixer(channel)
        self._bridge: soxr.ResampleStream | None = None
        self._bridge_rate = 0
        self._container = _open(source, container)
        try:
            self._stream = self._choose_stream()
            self._frames = self._decode()
            self._first = next(self._frames, None)
            self.sample_rate = self._stream.codec_context.sample_rate if self._first is None else self._first.sample_rate
            self.channels = self._stream.codec_context.channels if self._first is None else self._first.layout.nb_channels
            self._check_format()
        except BaseException:
            self.close()
            raise
        self._bridge_rate = self.sample_rate
        self.num_frames = self._stated_frames()

    def blocks(self) -> Iterator[Float32Array]:
        """Yield float32 `[n]`, mono, full scale is 1, n at most `sample_rate`; as small as FFmpeg's frames. Once only.

        Raises:
            UndecodableAudio: A sample is NaN or infinite, or the sample rate changes to one out of range.
        """
        frame, self._first = self._first, None
        while frame is not None:
            mono = self._mixer.mix(self._reader.read(frame))
            yield from self._cut(self._conform(mono, frame.sample_rate))
            frame = next(self._frames, None)
        yield from self._cut(self._end_bridge())

    def close(self) -> None:
        """Release FFmpeg's memory."""
        self._container.close()

    def _choose_stream(self) -> AudioStream:
        if not self._container.streams.audio:
            raise UnsupportedAudio(f"the {self._name} container holds no sound")
        stream = self._container.streams.audio[0]
        codec = None if stream.codec_context is None else stream.codec_context.codec.name
        if codec is None or codec not in _CODECS.split(","):
            raise UnsupportedAudio(f"the sound in the {self._name} container is written with {codec or 'an unknown codec'}")
        stream.codec_context.thread_count = 1
        return stream

    def _check_format(self) -> None:
        if not MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE:
            raise UnsupportedAudio(
                f"the sample rate is {self.sample_rate} Hz, allowed is {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise UnsupportedAudio(f"the sound has {self.channels} channels, allowed is 1 to {MAX_CHANNELS}")
        self._mixer.check(self.channels)

    def _stated_frames(self) -> int | None:
        if self._name == "mp4" and not self._stream.frames:
            return None  # fragmented: the header states its first fragment
        if self._stream.duration is not None and self._stream.time_base is not None:
            seconds = float(self._stream.duration * self._stream.time_base)
        else:
            seconds = (self._container.duration or 0) / 1_000_000
        return round(seconds * self.sample_rate) if seconds > 0 else None

    def _decode(self) -> Iterator[AudioFrame]:
        """Yield frames; leave out packets that cannot be decoded; an error if that left nothing."""
        damage: Exception | None = None
        has_sound = False
        packets = self._container.demux(self._stream)
        while True:
            packet = None
            try:
                packet = next(packets, None)
                frames = [] if packet is None else packet.decode()
            except (av.error.FFmpegError, IndexError) as error:  # IndexError: PyAV at the end, where streams turned up late
                damage = error
                frames = self._flush() if packet is None else []
            for frame in frames:
                has_sound = has_sound or frame.samples > 0
                yield frame
            if packet is None:
                break
        if damage is not None and not has_sound:
            _refuse(self._name, damage)

    def _flush(self) -> list[AudioFrame]:
        """What the decoder still holds when the container breaks off."""
        try:
            return self._stream.decode(None)
        except av.error.FFmpegError:
            return []

    def _conform(self, mono: Float32Array, sample_rate: int) -> Float32Array:
        """Resample to the first frame's rate what has another one."""
        if sample_rate == self._bridge_rate and self._bridge is None:
            return mono
        ended = np.zeros(0, np.float32)
        if sample_rate != self._bridge_rate:
            if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
                raise UndecodableAudio(f"the sample rate changes from {self._bridge_rate} to {sample_rate} Hz on the way")
            ended = self._end_bridge()
            self._bridge_rate = sample_rate
            if sample_rate != self.sample_rate:
                self._bridge = soxr.ResampleStream(sample_rate, self.sample_rate, 1, dtype="float32")
        bridged = mono if self._bridge is None else self._bridge.resample_chunk(mono)
        return np.concatenate([ended, bridged])

    def _end_bridge(self) -> Float32Array:
        bridge, self._bridge = self._bridge, None
        empty = np.zeros(0, np.float32)
        return empty if bridge is None else bridge.resample_chunk(empty, last=True)

    def _cut(self, block: Float32Array) -> Iterator[Float32Array]:
        for start in range(0, len(block), self.sample_rate):
            yield block[start : start + self.sample_rate]


def _open(source: ByteSource, container: str) -> InputContainer:
    demuxer = _DEMUXERS[container]
    options = {
        "analyzeduration": str(demuxer.analyze_us),
        "max_probe_packets": "1",  # 32 packets of PCM (1.3 s) otherwise, in search of DTS that calls itself PCM
        "codec_whitelist": _CODECS,
        "protocol_whitelist": "none",
    }
    try:
        return av.open(
            source, "r", format=demuxer.name, container_options=options, metadata_errors="replace", io_open=_refuse_io
        )
    except av.error.FFmpegError as error:
        _refuse(container, error)


def _refuse_io(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    """A container that names other files or addresses gets none of them."""
    raise UnsupportedAudio("the container refers to other files, which are not opened")


def _refuse(container: str, error: Exception) -> NoReturn:
    raise UndecodableAudio(f"the bytes are {container}, but cannot be decoded: they are incomplete or damaged") from error
