"""What a stream's session asks its owner to do, collected until the owner takes it. Pure.

From `number_from` or `go_on` on every message bears the next `seq`, and the last of them are kept for a client that comes back
with fewer.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import ServiceError
from service.streaming.actions import Action, Send
from service.streaming.messages import ErrorMessage, ServerMessage
from service.streaming.state import MessageLog


class Outgoing:
    """The actions of one stream, in order.

    Args:
        is_kept: Whether another connection may go on with the stream, so that numbered messages are kept.
    """

    def __init__(self, *, is_kept: bool) -> None:
        self._is_kept = is_kept
        self._actions: list[Action] = []
        self._seq: int | None = None
        self._log = MessageLog()

    @property
    def seq(self) -> int:
        """Of the last numbered message; 0 before the first."""
        return self._seq or 0

    @property
    def kept(self) -> list[ServerMessage]:
        """The last numbered messages, in order."""
        return self._log.tail()

    def number_from(self, seq: int) -> None:
        """Give the messages that follow numbers, of which this one was the last."""
        self._seq = seq

    def go_on(self, log: MessageLog, unsent: Sequence[ServerMessage], seq: int) -> None:
        """Go on where another connection broke: send what it did not deliver, as it was numbered there, and count on.

        Args:
            log: What is kept of the messages so far.
            unsent: Those of them that the client has not received.
            seq: Of the last one.
        """
        self._log = log
        self._actions += [Send(message) for message in unsent]
        self._seq = seq

    def add(self, action: Action) -> None:
        """Ask for anything but a message."""
        self._actions.append(action)

    def send(self, message: ServerMessage) -> None:
        """Send a message, with its number once they are counted."""
        if self._seq is not None:
            self._seq += 1
            message = message.model_copy(update={"seq": self._seq})
            if self._is_kept:
                self._log.add(message)
        self._actions.append(Send(message))

    def send_error(self, error: ServiceError, *, fatal: bool) -> None:
        """Tell the client of an error; `fatal` says that the stream ends with it."""
        self.send(
            ErrorMessage(
                code=error.code,
                message=error.message,
                param=error.param,
                retryable=error.retryable,
                retry_after_s=error.retry_after_s,
                fatal=fatal,
            )
        )

    def take(self) -> list[Action]:
        """Return what was asked for since the last call."""
        actions, self._actions = self._actions, []
        return actions
