"""uvicorn's websocket, held to how much a client may have it do that never gets to the application: pings, and not reading."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.errors import TooManyMessages
from service.streaming.rate import MessageRate

if TYPE_CHECKING:
    from asyncio.transports import BaseTransport

    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
    from websockets.frames import Frame

LINGER_SECONDS = 10.0
"""How long what was sent last may take to leave once the stream is over: uvicorn gives a close as long."""
LAST_WORD = "sonotag.last_word"
"""A key of the ASGI messages that are not held back by a client that does not read: there are two, and nothing follows."""
FLOOD = "sonotag.flood"
"""The key of the ASGI message that says, with a `TooManyMessages`, why no more is read of a connection; it is the last one."""


class LingeringWebSocket(WebSocketsSansIOProtocol):
    """A websocket whose last words are written although the client takes nothing, and that is cut off if it takes them neither.

    Without this the connection of a client that never reads would stay for as long as its machine does, and its pings would be
    answered into memory.

    Attributes:
        max_empty_per_second: How many frames without content may come; ten seconds' worth at once. The class that
            `lingering_websocket` returns knows it.
    """

    max_empty_per_second: ClassVar[float]

    _cut_off: asyncio.TimerHandle | None = None
    _is_full = False
    _is_flooded = False
    _pong = b""

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin; see uvicorn."""
        self._rate = MessageRate(self.max_empty_per_second)
        super().connection_made(transport)

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

    def pause_writing(self) -> None:
        """Note that the client does not take what is sent as fast; see uvicorn."""
        self._is_full = True
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that it has taken nearly all, and answer its last ping; see uvicorn."""
        self._is_full = False
        super().resume_writing()
        pong, self._pong = self._pong, b""
        if pong and not self.close_sent:
            self.transport.write(pong)

    def handle_ping(self) -> None:
        """Answer a ping, or while the client takes nothing only its last one; see uvicorn.

        Source: RFC 6455, section 5.5.3: a pong may be sent for the most recent ping only.
        """
        pongs = self.conn.data_to_send()  # of all pings that came together: there are none left for those that follow
        self._count_empty()
        if self._is_flooded or self.close_sent or not self.handshake_complete:
            return
        if not self._is_full:
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._pong = pongs[-1]

    def handle_pong(self, event: Frame) -> None:
        """Take a pong, asked for or not; see uvicorn."""
        self._count_empty()
        super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """Take a piece of a message; see uvicorn. Only the bytes of one message are limited there, not its pieces."""
        if not event.data:
            self._count_empty()
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Hand a message to the application; see uvicorn. After a flood there is none, and nothing that resumes reading."""
        if self._is_flooded:
            self.frames = []
            return
        super().send_receive_event_to_app()

    def _count_empty(self) -> None:
        """Count a frame that the application never sees; once too many have come, read no more."""
        if self._is_flooded:
            return
        try:
            self._rate.count(self.loop.time())
        except TooManyMessages:
            self._is_flooded = True
            error = TooManyMessages(
                f"more than {self.max_empty_per_second:g} pings, pongs or empty pieces of messages a second came "
                "(SONOTAG_MAX_MESSAGES_PER_SECOND): one ping in some seconds keeps a connection open"
            )
            self.queue.put_nowait(cast("ASGIReceiveEvent", {"type": "websocket.receive", "text": "", FLOOD: error}))
            self.read_paused = False  # uvicorn resumes what it has paused itself
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end; see uvicorn."""
        if self._cut_off is not None:
            self._cut_off.cancel()
        super().connection_lost(exc)


def lingering_websocket(*, max_messages_per_second: float) -> type[LingeringWebSocket]:
    """Return the class of websockets for this limit: uvicorn makes them, and gives them nothing of ours."""
    return type("LingeringWebSocket", (LingeringWebSocket,), {"max_empty_per_second": max_messages_per_second})
