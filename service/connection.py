"""One HTTP connection of the server: uvicorn's, with a limit on how long a request's head may take to come.

uvicorn closes a connection that is idle after an answer. One that never sends a request, or sends its head a byte at a time,
would stay for ever, and a few thousand of them take every descriptor. (A body that comes slowly is `service.api.uploads`'s.)
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.error_handlers import error_response
from service.errors import RequestTimeout


class TimedConnection(H11Protocol):
    """A connection that is closed when a head, or the rest of a body that nobody waits for, takes too long.

    Attributes:
        head_seconds: How long. The class that `timed_connection` returns knows it.
    """

    head_seconds: ClassVar[float]

    _head_timer: asyncio.TimerHandle | None = None
    _has_begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._has_begun = True
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._forget()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """See uvicorn: its timer of idle connections begins."""
        self._has_begun = False
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

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

    def _give_up(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE and self._has_begun:
            self._refuse()
        self.transport.close()

    def _refuse(self) -> None:
        answer = error_response(
            RequestTimeout(f"the request's head took more than {self.head_seconds:g} s (SONOTAG_RECEIVE_TIMEOUT_SECONDS)")
        )
        headers = [*answer.raw_headers, (b"connection", b"close")]
        head = h11.Response(status_code=answer.status_code, headers=headers, reason=b"Request Timeout")
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")


def timed_connection(head_seconds: float) -> type[TimedConnection]:
    """Return the class of connections for a limit: uvicorn makes them, and gives them nothing of ours."""
    return type("TimedConnection", (TimedConnection,), {"head_seconds": head_seconds})
