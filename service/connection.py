"""One HTTP connection of the server: uvicorn's, with limits on how slowly a head may come and an answer may be taken.

uvicorn closes a connection that is idle after an answer. One that never sends a request, or sends its head a byte at a time,
would stay for ever, and a few thousand of them take every descriptor. (A body that comes slowly is `service.api.uploads`'s.)
And an answer that comes line by line waits for a client that does not read: for ever, with its file, its decoder and its places
in the queue.
"""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.error_handlers import error_response
from service.api.uploads import MIN_BYTES_PER_SECOND
from service.errors import RequestTimeout
from service.lingering import LingeringTransport
from service.logs import log_event, log_refusal

logger = logging.getLogger(__name__)


class TimedConnection(H11Protocol):
    """A connection that is closed when a head, or the rest of a body that nobody waits for, takes too long; and cut off when
    its client does not read.

    Attributes:
        head_seconds: How long a head may take. The class that `timed_connection` returns knows it.
        send_seconds: How long a client may take next to nothing, where something waits for it.
    """

    head_seconds: ClassVar[float]
    send_seconds: ClassVar[float]

    transport: LingeringTransport
    _head_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None
    _num_unsent_bytes = 0
    _has_begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(LingeringTransport(transport, lambda: self.conn.their_state is h11.SEND_BODY))
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """See uvicorn: the connection is no longer one of HTTP."""
        self.transport = self.transport.real  # type: ignore[assignment]
        super().handle_websocket_upgrade(event)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self.transport.is_lingering:
            return
        self._has_begun = True
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._forget()
        self._note_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio: what is sent is not taken as fast."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """See asyncio: nearly all is taken."""
        self._note_taken()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """See uvicorn: its timer of idle connections begins."""
        self._has_begun = False
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.flow.resume_reading()
            self._watch()

    def shutdown(self) -> None:
        """See uvicorn: what has its answer is not waited for."""
        super().shutdown()
        if self.transport.is_lingering:
            self.transport.close_now()

    def _watch(self) -> None:
        """Run the timer while a head is not whole, or a body goes on after its answer."""
        is_answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is h11.IDLE or (self.conn.their_state is h11.SEND_BODY and is_answered):
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)
        else:
            self._forget()

    def _forget(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _watch_reader(self) -> None:
        self._num_unsent_bytes = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(self.send_seconds, self._judge_reader)

    def _note_taken(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _judge_reader(self) -> None:
        """Cut off a client that took less than may come of a body: who answers it learns that it has left."""
        num_unsent = self.transport.get_write_buffer_size()
        if self._num_unsent_bytes - num_unsent >= MIN_BYTES_PER_SECOND * self.send_seconds:
            self._watch_reader()
            return
        self._send_timer = None
        log_event(logger, logging.INFO, "a client does not read and is cut off (SONOTAG_SEND_SECONDS)", unsent_bytes=num_unsent)
        self.transport.abort()

    def _give_up(self) -> None:
        self._head_timer = None
        if self.transport.real.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE and self._has_begun:
            self._refuse()
        self.transport.close_now()

    def _refuse(self) -> None:
        answer = error_response(
            RequestTimeout(f"the request's head took more than {self.head_seconds:g} s (SONOTAG_RECEIVE_TIMEOUT_SECONDS)")
        )
        log_refusal("request", None, RequestTimeout.code, self.head_seconds)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=answer.status_code, headers=headers, reason=b"Request Timeout")
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")


def timed_connection(*, head_seconds: float, send_seconds: float) -> type[TimedConnection]:
    """Return the class of connections for these limits: uvicorn makes them, and gives them nothing of ours."""
    return type("TimedConnection", (TimedConnection,), {"head_seconds": head_seconds, "send_seconds": send_seconds})
