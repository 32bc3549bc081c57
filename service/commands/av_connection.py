"""Sound from an address through FFmpeg: Icecast, HLS and other HTTP, RTSP."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from service.commands.addresses import without_secrets
from service.errors import InvalidParameter, UnsupportedAudio

OPEN_SECONDS = 15.0
READ_SECONDS = 20.0
"""Twice the longest segment that HLS's authors recommend: a live playlist has nothing new for as long."""

_TIMEOUT = (OPEN_SECONDS, READ_SECONDS)
_PLAYLISTS = frozenset({"hls", "dash"})


class AvConnection:
    """A `Connection` through FFmpeg.

    Args:
        url: The address.
        channel: The channel to take; None for the mean of all.
        sample_rate: What to convert to; None for the sound's own.

    Raises:
        OSError: There is nothing, or it does not answer.
        UnsupportedAudio: There is no sound in it.
        InvalidParameter: There is no such channel.
    """

    def __init__(self, url: str, channel: int | None, sample_rate: int | None) -> None:
        self._container = _open(url)
        try:
            audio = next(iter(self._container.streams.audio), None)
            if audio is None:
                raise UnsupportedAudio(f"{without_secrets(url)} has no sound")
            if channel is not None and channel >= audio.codec_context.channels:
                raise InvalidParameter(
                    f"there is no channel {channel}: the sound has {audio.codec_context.channels}", param="channel"
                )
            self.sample_rate: int = sample_rate or audio.codec_context.sample_rate
            duration = self._container.duration
            self.duration_seconds: float | None = duration / av.time_base if duration and duration > 0 else None
            self.has_length = _has_length(self._container, url)
            self._frames = _decode(self._container, audio)
        except BaseException:
            self._container.close()
            raise
        self._channel = channel
        self._shape: tuple[object, ...] = ()
        self._resampler: av.AudioResampler | None = None

    def read(self) -> bytes:
        """See `Connection`."""
        try:
            for frame in self._frames:
                if data := b"".join(self._convert(frame)):
                    return data
        except av.FFmpegError as error:
            raise OSError(error.strerror) from error
        return b""

    def close(self) -> None:
        """See `Connection`."""
        self._container.close()

    def _convert(self, frame: AudioFrame) -> Iterator[bytes]:
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or shape != self._shape:
            # The next programme of a radio may come in another shape.
            self._shape, self._resampler = shape, av.AudioResampler("fltp", rate=self.sample_rate)
        frame.pts = None
        for converted in self._resampler.resample(frame):
            channels = converted.to_ndarray()
            picked = channels.mean(axis=0) if self._channel is None else channels[min(self._channel, len(channels) - 1)]
            yield picked.astype("<f4").tobytes()


def _decode(container: InputContainer, audio: AudioStream) -> Iterator[AudioFrame]:
    for packet in container.demux(audio):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue  # a damaged packet, or one of before we came
        yield from frames


def _has_length(container: InputContainer, url: str) -> bool:
    """Return whether these bytes are one file, whose length is stated. A playlist's own length says nothing about its sound."""
    is_plain = url.lower().startswith("http") and not _PLAYLISTS.intersection(container.format.name.split(","))
    # Some radios state a length to please old players.
    is_radio = any(name.lower().startswith("icy-") for name in container.metadata)
    return is_plain and not is_radio and container.size > 0


def _open(url: str) -> InputContainer:
    try:
        return _open_rtsp(url) if url.lower().startswith("rtsp") else av.open(url, timeout=_TIMEOUT)
    except av.InvalidDataError as error:
        raise UnsupportedAudio(f"{without_secrets(url)} is no sound that can be read") from error
    except av.FFmpegError as error:
        raise OSError(_name_trouble(url) if error.errno == errno.EIO else error.strerror) from error


def _name_trouble(url: str) -> str:
    """Return what is behind an "Input/output error": it is all that FFmpeg says of a name that cannot be resolved."""
    host = urlsplit(url).hostname
    try:
        socket.getaddrinfo(host, None)
    except (socket.gaierror, UnicodeError) as error:
        return f"the name {host} cannot be resolved ({getattr(error, 'strerror', None) or error})"
    return "Input/output error"


def _open_rtsp(url: str) -> InputContainer:
    options = {"rtsp_transport": "tcp"}
    try:
        return av.open(url, options=options | {"allowed_media_types": "audio"}, timeout=_TIMEOUT)
    except av.HTTPOtherClientError:
        # What a server says that has no sound and so is asked to play nothing: with its pictures it can be seen what it has.
        return av.open(url, options=options, timeout=_TIMEOUT)
