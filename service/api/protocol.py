"""uvicorn's websocket, which lets a client that does not read be told so and get rid of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

LINGER_SECONDS = 10.0
"""How long what was sent last may take to leave once the stream is over: uvicorn gives a close as long."""
LAST_WORD = "sonotag.last_word"
"""A key of the ASGI messages that are not held back by a client that does not read: there are two, and nothing follows."""


class LingeringWebSocket(WebSocketsSansIOProtocol):
    """A websocket whose last words are written although the client takes nothing, and that is cut off if it takes them neither.

    Without this the connection of a client that never reads would stay for as long as its machine does.
    """

    _cut_off: asyncio.TimerHandle | None = None

    async def run_asgi(self) -> None:
        """Run the application; see uvicorn."""
        await super().run_asgi()
        if not self.disconnected and self.transport.get_write_buffer_size():
            self._cut_off = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says; see uvicorn."""
        if LAST_WORD in message:
            self.writable.set()
        await super().send(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end; see uvicorn."""
        if self._cut_off is not None:
            self._cut_off.cancel()
        super().connection_lost(exc)
