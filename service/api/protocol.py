"""uvicorn's websocket, held to how much a client may have it do beside its sound: pings, not reading, too many frames."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.api.frame_slices import FrameSlicer
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
CONFIRMATION = "sonotag.confirmation"
"""The key in an ASGI close of a future, which becomes true when the client answers that close, and false when it is gone."""
SLICE_FRAMES = 64
"""So many frames are parsed and handled before other connections have their turn."""
FRAMES_PER_SECOND = 2_000.0
"""As many are read in the long run, or SONOTAG_MAX_MESSAGES_PER_SECOND where that is more; others wait in the client's machine.
A browser that sends each block of its audio thread by itself has 375."""
FRAMES_AHEAD_SECONDS = 2.0
"""So many seconds' worth of frames are read as fast as they come."""
FLOOD = "sonotag.flood"
"""The key of the ASGI message that says, with a `TooManyMessages`, why no more is read of a connection; it is the last one."""


class LingeringWebSocket(WebSocketsSansIOProtocol):
    """A websocket whose last words are written although the client takes nothing, and that is cut off if it takes them neither.

    Without this the connection of a client that never reads would stay for as long as its machine does, and its pings would be
    answered into memory.

    Attributes:
        max_empty_per_second: How many frames without content may come; ten seconds' worth at once. The classes that
            `lingering_websocket` returns know it, and the next.
        frames_per_second: How many are read, of all kinds; `FRAMES_AHEAD_SECONDS`' worth at once.
    """

    max_empty_per_second: ClassVar[float]
    frames_per_second: ClassVar[float]

    _confirmation: asyncio.Future[bool] | None = None
    _cut_off: asyncio.TimerHandle | None = None
    _is_full = False
    _is_flooded = False
    _pong = b""
    _paid_until = 0.0
    _next_slice: asyncio.Handle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin; see uvicorn."""
        self._rate = MessageRate(self.max_empty_per_second)
        self._slicer = FrameSlicer(SLICE_FRAMES)
        self._unparsed = bytearray()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came, the frames in slices; see uvicorn."""
        if not self.handshake_initiated:
            super().data_received(data)
            return
        self._unparsed += data
        if self._next_slice is None:
            self._parse_slice()

    async def receive(self) -> ASGIReceiveEvent:
        """Hand out what was parsed; see uvicorn. More is parsed or read once it has been taken."""
        message = await self.queue.get()
        if self.queue.empty():
            self._go_on()
        return message

    def _parse_slice(self) -> None:
        self._next_slice = None
        num_bytes, num_frames = self._slicer.cut(self._unparsed)
        self._paid_until = max(self._paid_until, self.loop.time()) + num_frames / self.frames_per_second
        if num_bytes:
            data = bytes(self._unparsed[:num_bytes])
            del self._unparsed[:num_bytes]
            super().data_received(data)
        if self.queue.empty() or self.close_sent:
            self._go_on()

    def _go_on(self) -> None:
        """Parse the next slice after others had their turn, or read on: what came before was taken."""
        if self._is_flooded or self._next_slice is not None or self.transport.is_closing():
            return
        ahead = self._paid_until - self.loop.time() - FRAMES_AHEAD_SECONDS
        if ahead > 0 or self._slicer.has_more(self._unparsed):
            self._next_slice = self.loop.call_later(max(0.0, ahead), self._parse_slice)
            if not self.read_paused:
                self.read_paused = True
                self.transport.pause_reading()
        elif self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    async def run_asgi(self) -> None:
        """Run the application; see uvicorn."""
        await super().run_asgi()
        self._cut_off_later()

    def _cut_off_later(self) -> None:
        if self._cut_off is None and not self.disconnected and self.transport.get_write_buffer_size():
            self._cut_off = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says; see uvicorn."""
        if LAST_WORD in message:
            self.writable.set()
        if CONFIRMATION in message:
            self._confirmation = cast("dict[str, asyncio.Future[bool]]", message)[CONFIRMATION]
        await super().send(message)
        if CONFIRMATION in message and not self.close_sent and self.conn.close_rcvd is not None:
            self._judge_close()  # the client was first to close: ours is not sent any more
        if self.close_sent:
            if self._is_flooded:
                self._confirm(is_there=True)  # nothing is read any more, and nobody is waited for
            self._go_on()  # the client's close may be behind what was not parsed yet
            self._cut_off_later()

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

    def handle_close(self, event: Frame) -> None:
        """Take the client's close; see uvicorn."""
        if self.close_sent:
            self._judge_close()
        super().handle_close(event)

    def _judge_close(self) -> None:
        """Say whether the client knows the end: it answers with our code, or closes itself. Any other code says that something
        went wrong on its way, such as a ping of its that was not answered, and its close has crossed ours."""
        ours, theirs = self.conn.close_sent if self.close_sent else None, self.conn.close_rcvd
        is_answer = theirs is not None and ours is not None and theirs.code == ours.code
        self._confirm(is_there=is_answer or (theirs is not None and theirs.code in (1000, 1001, 1005)))

    def _confirm(self, *, is_there: bool) -> None:
        if self._confirmation is not None and not self._confirmation.done():
            self._confirmation.set_result(is_there)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end; see uvicorn."""
        self._confirm(is_there=False)
        for timer in (self._cut_off, self._next_slice):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)


def lingering_websocket(
    *, max_messages_per_second: float, frames_per_second: float = FRAMES_PER_SECOND
) -> type[LingeringWebSocket]:
    """Return the class of websockets for these limits: uvicorn makes them, and gives them nothing of ours."""
    limits = {
        "max_empty_per_second": max_messages_per_second,
        "frames_per_second": max(frames_per_second, max_messages_per_second),
    }
    return type("LingeringWebSocket", (LingeringWebSocket,), limits)
