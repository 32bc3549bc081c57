"""What the service and a decoder process say to each other, over a pair of sockets.

::

    service                       decoder
    FILE (with a descriptor)  ──▶
                              ◀── OPENED, BLOCK ..., then DONE or FAILED; ready for the next FILE

    STREAM                    ──▶
    DATA or END               ◀── WANTED           each WANTED is answered once; nothing is sent unasked
                              ◀── OPENED, BLOCK ..., then DONE or FAILED; the process ends

Back-pressure is the socket's: a decoder that is ahead waits in `send`. What it has to say of a file it collects, so that
the service is woken once for a short one and not for every second of it. The service believes nothing that a decoder says: a
length out of bounds, an unknown kind or a payload of another form is a `WireError`, and the process is killed.
"""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import struct
import time
from typing import Annotated, Literal

import pydantic

MAX_PAYLOAD_BYTES = 1024 * 1024
"""A second of float32 at 192 kHz has 768,000 bytes."""
DATA_BYTES = 65_536
"""Of a stream, sent at once."""
MAX_MESSAGE_CHARS = 1000
POSTED_BYTES = 262_144
"""What is posted is sent when it is so much: eight seconds at 16 kHz."""
POSTED_SECONDS = 0.25
"""Or so old: who waits is not to think that a slow decoder does nothing."""
_READ_BYTES = 65_536
"""What is read at once, where so much is there."""

_HEADER = struct.Struct("<BI")
_TIMEVAL = struct.Struct("@ll")  # of SO_RCVTIMEO: a timeout of Python's own costs two more calls for each message
BLOCK_HEADER = struct.Struct("<ddQ")
"""Before a file's samples: seconds of decoding, seconds of resampling, bytes of the file read so far."""


class Kind(enum.IntEnum):
    """What a message is."""

    FILE = 1
    STREAM = 2
    DATA = 3
    END = 4
    OPENED = 5
    BLOCK = 6
    WANTED = 7
    DONE = 8
    FAILED = 9


_KINDS = frozenset(Kind)


class _Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


Rate = Annotated[int, pydantic.Field(ge=1, le=10_000_000)]


class FileJob(_Message):
    """FILE: decode the file whose descriptor comes along, and resample it."""

    channel: int | None
    target_rate: Rate


class StreamJob(_Message):
    """STREAM: decode what comes as DATA."""

    container: str
    channel: int | None


class Opened(_Message):
    """OPENED: what the header said."""

    container: Annotated[str, pydantic.Field(max_length=20)]
    sample_rate: Rate
    channels: Annotated[int, pydantic.Field(ge=1, le=1000)]
    num_frames: Annotated[int, pydantic.Field(ge=0)] | None = None


class Failed(_Message):
    """FAILED: why no more can be decoded. A `code` is that of a `ServiceError`; `memory` and `bug` are the decoder's own."""

    code: Annotated[str, pydantic.Field(max_length=40)]
    message: Annotated[str, pydantic.Field(max_length=MAX_MESSAGE_CHARS)]
    param: Literal["channel"] | None = None


class WireError(Exception):
    """What came is no message, or not one that may come now."""


class Wire:
    """One end of the pair. One thread at a time sends, one receives.

    Args:
        sock: A connected stream socket; it belongs to this object.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._posted = bytearray()
        self._posted_at = 0.0
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._ahead = self._buffer[:0]  # what came with what was asked for

    def post(self, kind: Kind, *payload: bytes) -> None:
        """Send a message with those that follow: the next one that is sent takes it along, or one that is posted when there is
        enough, or some time has passed.

        Raises:
            OSError: The other side is gone.
        """
        if not self._posted:
            self._posted_at = time.monotonic()
        self._collect(kind, payload)
        if len(self._posted) >= POSTED_BYTES or time.monotonic() - self._posted_at >= POSTED_SECONDS:
            self._flush()

    def send(self, kind: Kind, *payload: bytes, fd: int | None = None) -> None:
        """Send a message, a descriptor with it, and before it what was posted.

        Raises:
            OSError: The other side is gone.
        """
        self._collect(kind, payload)
        self._flush(() if fd is None else (fd,))

    def receive(self, timeout_seconds: float | None = None) -> tuple[Kind, bytes]:
        """Wait for a message; any descriptor that comes along is left to the kernel, which closes it.

        Args:
            timeout_seconds: How long, above 0. An end has one for all messages, or waits for ever for all.

        Raises:
            EOFError: The other side is gone.
            TimeoutError: Nothing whole came in time.
            WireError: It is no message.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        kind, length = _HEADER.unpack(self._read(_HEADER.size, deadline))
        if kind not in _KINDS or length > MAX_PAYLOAD_BYTES:
            raise WireError(f"a message of kind {kind} with {length} bytes")
        return Kind(kind), self._read(length, deadline)

    def receive_job(self) -> tuple[Kind, bytes, int | None]:
        """Wait for a message and the descriptor that may come with it, which then belongs to the caller.

        Raises:
            EOFError: The other side is gone.
            WireError: It is no message.
        """
        first, fds, _, _ = socket.recv_fds(self._socket, _READ_BYTES, 1)
        if not first:
            raise EOFError
        self._buffer[: len(first)] = first
        self._ahead = self._buffer[: len(first)]
        kind, payload = self.receive()
        return kind, payload, fds[0] if fds else None

    def shut_down(self) -> None:
        """Make the other side, and whoever waits at this one, see the end."""
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; nobody waits at it any more."""
        self._socket.close()

    def _collect(self, kind: Kind, payload: tuple[bytes, ...]) -> None:
        # All of it or, where there is no memory, nothing: what follows would be taken for the rest.
        self._posted += b"".join((_HEADER.pack(kind, sum(len(part) for part in payload)), *payload))

    def _flush(self, fds: tuple[int, ...] = ()) -> None:
        posted, self._posted = self._posted, bytearray()
        # Descriptors go with the first byte: the rest may be sent without them.
        sent = socket.send_fds(self._socket, [posted], fds) if fds else 0
        self._socket.sendall(memoryview(posted)[sent:])

    def _read(self, size: int, deadline: float | None) -> bytes:
        data = bytearray(size)
        rest = memoryview(data)
        while True:
            num_there = min(len(rest), len(self._ahead))
            rest[:num_there] = self._ahead[:num_there]
            rest, self._ahead = rest[num_there:], self._ahead[num_there:]
            if not rest:
                return bytes(data)
            self._ahead = self._buffer[: self._wait(deadline)]

    def _wait(self, deadline: float | None) -> int:
        """Wait until something comes, and return how many bytes of the buffer it fills."""
        if deadline is not None:
            microseconds = round(1e6 * (deadline - time.monotonic()))
            if microseconds <= 0:  # to the kernel 0 means no limit
                raise TimeoutError
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(*divmod(microseconds, 1_000_000)))
        try:
            received = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            raise TimeoutError from None
        if not received:
            raise EOFError
        return received


def share_file(fd: int) -> int:
    """Return a descriptor of the same file to hand to a decoder: where the system can, one that only reads.

    Raises:
        OSError: There is no descriptor left.
    """
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.dup(fd)
