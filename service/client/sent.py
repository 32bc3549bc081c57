"""The last seconds of what a client has sent of a stream, to be sent again where a connection broke."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from service.audio.formats import RawFormat
from service.client.sounds import Frame
from service.streaming.messages import ClientMessage, KeepAlive, Start

KEEP_SECONDS: Final = 60.0
"""Twice what a server keeps a stream for, by default: what the network's buffers took before the break is in it."""


class SentFrames:
    """Frames by the position of their sound.

    Args:
        format: Of the sound: a container cannot be cut anywhere, so there is none of those.
        keep_seconds: How much sound is kept.
    """

    def __init__(self, format: RawFormat, keep_seconds: float = KEEP_SECONDS) -> None:
        self._frame_bytes = format.frame_bytes
        self._rate = format.sample_rate
        self._keep_bytes = int(keep_seconds * format.sample_rate) * format.frame_bytes
        self._frames: deque[tuple[int, Frame]] = deque()
        self._first = 0
        self._end = 0

    @classmethod
    def for_start(cls, start: Start) -> SentFrames | None:
        """Return one for the sound that a `start` describes; None for a container."""
        if start.encoding is None or start.encoding == "auto" or start.sample_rate is None:
            return None
        return cls(RawFormat(start.encoding, start.sample_rate, 1 if start.channels is None else start.channels))

    @property
    def earliest_seconds(self) -> float:
        """From where on all that was sent is kept."""
        return -(-self._first // self._frame_bytes) / self._rate

    def add(self, frame: Frame) -> None:
        """Keep a frame that is about to be sent, and forget what is too old; `keep_alive` is about then and not about sound."""
        if isinstance(frame, KeepAlive):
            return
        self._frames.append((self._end, frame))
        if not isinstance(frame, ClientMessage):
            self._end += len(frame)
        while self._frames and self._end - self._next_start() > self._keep_bytes:
            self._frames.popleft()
            self._first = self._frames[0][0] if self._frames else self._end

    def since(self, seconds: float) -> Iterator[Frame]:
        """Yield what was sent from a second on, `earliest_seconds` or later; sound is cut where it begins."""
        position = round(seconds * self._rate) * self._frame_bytes
        for start, frame in list(self._frames):
            if isinstance(frame, ClientMessage):
                if start >= position:
                    yield frame
            elif start + len(frame) > position:
                yield frame[max(0, position - start) :]

    def _next_start(self) -> int:
        """Where what is kept would begin without its oldest frame."""
        return self._frames[1][0] if len(self._frames) > 1 else self._end
