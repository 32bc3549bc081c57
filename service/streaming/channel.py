"""What a stream comes through: a socket, a file, a pipe."""

from __future__ import annotations

from typing import Protocol

from service.streaming.messages import ServerMessage


class OtherSideLeft(ConnectionResetError):
    """The other side has closed the stream itself: nobody will come back to it."""


class Channel(Protocol):
    """Where a stream's frames come from and its messages go. One task calls `receive`, another one `send` and `close`.

    Every method may raise OSError: the other side is gone, and the stream with it.
    """

    async def receive(self) -> str | bytes:
        """Wait for the next frame: text for a message, bytes for sound. Cancelled when no frame matters any more.

        Raises:
            ServiceError: The sound cannot be read any further; what came is scored and sent, then the stream ends with it.
        """
        ...

    async def send(self, message: ServerMessage) -> None:
        """Send a message. While it waits the stream is read no further than a few messages.

        Raises:
            TimeoutError: The other side takes nothing. What is sent after it are the last words, which do not wait.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """End the stream; nothing is sent after it."""
        ...

    async def has_arrived(self) -> bool:
        """After `close`: return whether the other side has it, and so all that was sent before, as soon as that is known."""
        ...
