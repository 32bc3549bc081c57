"""What can be asked, by workers of the keeper and by the keeper of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import pydantic

from service.access.keys import Limits

VERSION: Final = 4
"""Of all messages together. Both ends are one installation, but one may be older: an upgrade replaces files under a supervisor
that goes on, and its next worker is a new one."""


class Message(pydantic.BaseModel):
    """What goes over the socket, as JSON; bytes in base64."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class Nothing(Message):
    """There is nothing to say."""


Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


@dataclass(frozen=True, slots=True)
class Topic(Generic[Q, A]):
    """One thing that can be asked.

    Attributes:
        name: On the wire; one word.
        question: What is asked with.
        answer: What is answered with.
    """

    name: str
    question: type[Q]
    answer: type[A]


class Hello(Message):
    """The first thing a worker says."""

    version: int


class Welcome(Message):
    """Whether worker and keeper understand each other, and the worker's number."""

    version: int
    worker: int


HELLO: Final = Topic("hello", Hello, Welcome)
PING: Final = Topic("ping", Nothing, Nothing)
"""To workers: whether their event loop still turns."""


class TakePlace(Message):
    """A stream asks for its place; asked twice for one holder it is one place. The workers know how many there are once their
    models are loaded (a measurement may say so); without `limit` it is SONOTAG_MAX_STREAMS."""

    holder: str
    limit: int | None = None


class Place(Message):
    """Whether the stream has a place, and how many of how many are taken now."""

    is_granted: bool
    taken: int
    limit: int


class LeavePlace(Message):
    """A stream gives its place back; it may have none."""

    holder: str


class Places(Message):
    """How many live streams are open in the whole service, and how many may be."""

    taken: int
    limit: int


TAKE_PLACE: Final = Topic("take_place", TakePlace, Place)
LEAVE_PLACE: Final = Topic("leave_place", LeavePlace, Nothing)
COUNT_PLACES: Final = Topic("count_places", Nothing, Places)


class HoldRoom(Message):
    """A body wants to have so many bytes on disk in all, and so many must be there for it."""

    holder: str
    num_bytes: int
    needed_bytes: int


class Room(Message):
    """How many it has; None where it may not have them. And how many all bodies have of how many."""

    num_bytes: int | None
    taken_bytes: int
    limit_bytes: int


class LeaveRoom(Message):
    """A body is no longer on disk; it may never have been."""

    holder: str


HOLD_ROOM: Final = Topic("hold_room", HoldRoom, Room)
LEAVE_ROOM: Final = Topic("leave_room", LeaveRoom, Nothing)


class StreamToken(Message):
    """The token of a live stream that another connection wants to go on with, and the ID of its API key: empty without keys."""

    token: str
    owner: str


class StreamState(Message):
    """The stream as `service.streaming.state` writes it; None where nobody has it. `is_late`: its worker has not answered, so
    that nobody knows."""

    state: str | None
    is_late: bool = False


class StreamDemand(Message):
    """What such a stream asks of which model, in windows a second; no model where nobody has the stream. `is_late` is that of
    `StreamState`."""

    model: str | None = None
    windows_per_second: float = 0.0
    is_late: bool = False


FIND_STREAM: Final = Topic("find_stream", StreamToken, StreamDemand)
"""To the keeper, which asks the worker that the token names. The stream stays where it is: whoever wants to go on with it must
know first whether it may."""
DESCRIBE_STREAM: Final = Topic("describe_stream", StreamToken, StreamDemand)
"""To that worker."""
FETCH_STREAM: Final = Topic("fetch_stream", StreamToken, StreamState)
"""To the keeper, which asks the worker that the token names, or the one that fetched the stream by it before."""
GIVE_STREAM: Final = Topic("give_stream", StreamToken, StreamState)
"""To that worker, which keeps the stream none the less: its answer may come too late for anybody to take it."""


class ParkedStream(Message):
    """A stream whose connection broke, by its token."""

    token: str


TAKEN_STREAM: Final = Topic("taken_stream", ParkedStream, Nothing)
"""To the keeper: this worker has the stream that it fetched by this token."""
RELEASE_STREAM: Final = Topic("release_stream", ParkedStream, Nothing)
"""To the worker that gave it: what it keeps of it is of no use any more."""
PARK_STREAM: Final = Topic("park_stream", ParkedStream, Nothing)
"""To the keeper: this worker keeps a stream from now on."""
UNPARK_STREAM: Final = Topic("unpark_stream", ParkedStream, Nothing)
"""To the keeper: it keeps it no longer."""
SETTLE_STREAM: Final = Topic("settle_stream", ParkedStream, Nothing)
"""To the keeper: what this worker fetched by this token is found by it no longer."""
DROP_STREAM: Final = Topic("drop_stream", ParkedStream, Nothing)
"""To a worker: there are too many, and this is the oldest."""


class KeyRequest(Message):
    """A request made with an API key. `key` is the key's ID, here and below."""

    key: str
    limits: Limits


class KeyStream(Message):
    """A stream opened with an API key; `lease` names it among its worker's."""

    key: str
    limits: Limits
    lease: str


class KeyStreamOver(Message):
    """It is closed; one that is not known does not matter."""

    key: str
    lease: str


class AudioWanted(Message):
    """Sound to be set aside for an API key: so many seconds, of which the minimum is of use. `held`: what whoever asks has
    already set aside and not used."""

    key: str
    limits: Limits
    seconds: float
    minimum: float
    held: float = 0.0


class AudioBack(Message):
    """Seconds that were set aside and not used."""

    key: str
    seconds: float


class Verdict(Message):
    """Whether the key may: the message of the refusal where it may not, else how much sound was set aside."""

    refusal: str | None = None
    retry_after_s: float | None = None
    seconds: float = 0.0


ADMIT_REQUEST: Final = Topic("admit_request", KeyRequest, Verdict)
OPEN_KEY_STREAM: Final = Topic("open_key_stream", KeyStream, Verdict)
CLOSE_KEY_STREAM: Final = Topic("close_key_stream", KeyStreamOver, Nothing)
RESERVE_AUDIO: Final = Topic("reserve_audio", AudioWanted, Verdict)
RETURN_AUDIO: Final = Topic("return_audio", AudioBack, Nothing)


class Prepared(Message):
    """Whether a worker has the new models ready: None where it has, else why not, without paths of the machine."""

    reason: str | None = None


class Swapped(Message):
    """Whether a worker serves the new models: None where it does, else why it cannot, without paths of the machine."""

    reason: str | None = None


class Reloaded(Message):
    """Whether all workers serve the new models: None where they do, else why the old ones serve on; and how many workers
    did not confirm that they changed and are replaced by others, which start with the new models."""

    reason: str | None = None
    num_replaced: int = 0


RELOAD_MODELS: Final = Topic("reload_models", Nothing, Reloaded)
"""To the keeper, which asks all workers in turn."""
PREPARE_MODELS: Final = Topic("prepare_models", Nothing, Prepared)
SWAP_MODELS: Final = Topic("swap_models", Nothing, Swapped)
"""To workers; asked twice it is one change."""
DISCARD_MODELS: Final = Topic("discard_models", Nothing, Nothing)
