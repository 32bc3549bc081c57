"""A transport that does not cut off its client in the middle of a body that nobody reads.

A socket that is closed with unread bytes in it sends a reset, and a client that is still sending loses the answer with it: the
one that says why its body is not wanted. So the sending half is closed at first, and the rest once the client has left or had
its time.
Source: RFC 9112, 9.6 (Tear-down).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class LingeringTransport(asyncio.Transport):
    """The transport of one HTTP connection.

    Args:
        transport: The real one.
        is_sending: Says whether the client is in the middle of a body.

    Attributes:
        real: As given.
        is_lingering: Whether it was closed and still takes in what comes; a second `close`, or `close_now`, ends that.
    """

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        super().__init__()
        self.real = transport
        self._is_sending = is_sending
        self.is_lingering = False

    def close(self) -> None:
        """See asyncio; at once only where nothing comes any more, or the second time."""
        if self.is_lingering or self.real.is_closing() or not self._is_sending():
            self.close_now()
            return
        self.is_lingering = True
        if self.real.can_write_eof():  # TLS cannot
            self.real.write_eof()

    def close_now(self) -> None:
        """Close it whatever the client does."""
        self.is_lingering = False
        self.real.close()

    def is_closing(self) -> bool:
        """See asyncio."""
        return self.is_lingering or self.real.is_closing()

    def abort(self) -> None:
        """See asyncio."""
        self.real.abort()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """See asyncio."""
        self.real.write(data)

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self.real.get_write_buffer_size()

    def pause_reading(self) -> None:
        """See asyncio."""
        self.real.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio."""
        self.real.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio."""
        return self.real.get_extra_info(name, default)
