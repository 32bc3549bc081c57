"""A stream whose connection broke, as plain data: what another connection, in any worker, needs to go on with it.

All windows are answered before it is taken, so that no sound is in flight. What is kept is bounded: at most two windows of
sound, the segments of events within one window, and the last messages (`MessageLog`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import pydantic

from service.streaming.messages import (
    Configured,
    ErrorMessage,
    EventMessage,
    GoingAway,
    ServerMessage,
    StreamConfiguration,
    Summary,
    Tags,
    Warn,
)
from service.streaming.sound import SoundState

STATE_VERSION: Final = 2
MAX_MESSAGES: Final = 256
MAX_TAGS: Final = 4096
Numbered = Annotated[
    Tags | EventMessage | Configured | Warn | ErrorMessage | GoingAway | Summary, pydantic.Field(discriminator="type")
]


class MessageLog:
    """The last numbered messages of a stream, which a client may not have received: the network holds some when it breaks.

    At most `MAX_MESSAGES`, and at most `MAX_TAGS` tags in them.

    Args:
        messages: To begin with, in order.
    """

    def __init__(self, messages: Iterable[ServerMessage] = ()) -> None:
        self._messages: deque[ServerMessage] = deque()
        self._num_tags = 0
        for message in messages:
            self.add(message)

    def add(self, message: ServerMessage) -> None:
        """Keep a message that is being sent, and forget the oldest where there are too many."""
        self._messages.append(message)
        self._num_tags += _count_tags(message)
        while len(self._messages) > MAX_MESSAGES or self._num_tags > MAX_TAGS:
            self._num_tags -= _count_tags(self._messages.popleft())

    def tail(self) -> list[ServerMessage]:
        """Return what is kept, in order."""
        return list(self._messages)

    def after(self, seq: int, last: int) -> list[ServerMessage] | None:
        """Return what was sent after a message, up to the last one; None where some of it is forgotten, or never was."""
        if not 0 <= seq <= last:
            return None
        wanted = [message for message in self._messages if message.seq is not None and message.seq > seq]
        return wanted if len(wanted) == last - seq else None


def _count_tags(message: ServerMessage) -> int:
    return len(message.tags) if isinstance(message, Tags) else 0


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as plain data.

    Attributes:
        version: `STATE_VERSION` of who wrote it.
        configuration: The effective configuration.
        model_sha256: Of the model's checkpoint: another one's scores do not go together with these.
        age_seconds: Since the stream began.
        seq: Of the last message.
        messages: The last ones, by rising `seq`.
        sound: What exists since the first frame of sound; None before.
        close: Code and reason of the close that follows the last message; None where the stream goes on.
        missing_from: Second from which on, to the last sound, all is missing as the last `ready` said, where the client has not
            shown that it has read that; None where nothing is, or it has.
    """

    version: int
    configuration: StreamConfiguration
    model_sha256: str
    age_seconds: float
    seq: int
    messages: list[Numbered]
    sound: SoundState | None
    close: tuple[int, str] | None
    missing_from: float | None = None


_ADAPTER = pydantic.TypeAdapter(SessionState)


def dump_state(state: SessionState) -> str:
    """Return a state as JSON."""
    return _ADAPTER.dump_json(state, by_alias=True).decode()


def load_state(text: str) -> SessionState | None:
    """Return a state that `dump_state` wrote; None for what another version wrote."""
    try:
        state = _ADAPTER.validate_json(text)
    except pydantic.ValidationError:
        return None
    return state if state.version == STATE_VERSION else None
