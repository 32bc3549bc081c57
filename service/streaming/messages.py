"""The wire of `/v1/stream`: every text message, in both directions.

Times are seconds from the stream's first sample. A server message after `ready` has `seq`, rising by one; the session
numbers them (`service.streaming.session`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import pydantic

from service.audio.formats import Encoding
from service.errors import BadMessage, InvalidParameter, ProtocolViolation
from service.postprocess.event_config import EventConfig
from service.validation import collect_query, parameter_error

PROTOCOL_VERSION = 1
MAX_TEXT_BYTES = 65_536

StreamEncoding = Literal[Encoding, "auto"]
OnLag = Literal["skip", "error", "wait"]
MAX_LABELS = 2000
"""Of one list: more than any model of the field has."""
Labels = Annotated[list[str | int], pydantic.Field(max_length=MAX_LABELS)]


class ClientMessage(pydantic.BaseModel):
    """What a client may say; unknown fields are errors."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Changeable(ClientMessage):
    """What may be chosen at the start and changed later."""

    hop: Annotated[float, pydantic.Field(allow_inf_nan=False)] | None = None
    top_k: Annotated[int, pydantic.Field(ge=1)] | None = None
    threshold: Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    labels: Labels | None = None
    exclude: Labels | None = None
    events: pydantic.JsonValue = None


class Start(Changeable):
    """`start`, and the query string: the format of the sound and what is wanted of it."""

    type: Literal["start"] = "start"
    encoding: StreamEncoding | None = None
    sample_rate: int | None = None
    channels: int | None = None
    channel: Annotated[int, pydantic.Field(ge=0)] | None = None
    window: Annotated[float, pydantic.Field(allow_inf_nan=False)] | None = None
    on_lag: OnLag | None = None
    model: str | None = None
    resume_token: str | None = None
    last_seq: Annotated[int, pydantic.Field(ge=0)] | None = None
    resume_from: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] | None = None


class Update(Changeable):
    """`update`: other tags, thresholds, events or hop, from the next sample on."""

    type: Literal["update"]


class Flush(ClientMessage):
    """`flush`: score up to now."""

    type: Literal["flush"]


class KeepAlive(ClientMessage):
    """`keep_alive`: resets the idle timer."""

    type: Literal["keep_alive"]


class Stop(ClientMessage):
    """`stop`: score the rest, send everything, close."""

    type: Literal["stop"]


CLIENT_MESSAGES: Mapping[str, type[ClientMessage]] = {
    "start": Start,
    "update": Update,
    "flush": Flush,
    "keep_alive": KeepAlive,
    "stop": Stop,
}


def parse_client_message(text: str) -> ClientMessage:
    """Parse one text frame.

    Raises:
        BadMessage: It is too long, or no JSON object.
        ProtocolViolation: It has no `type`, or one that does not exist.
        InvalidParameter: A field does not exist or is out of range.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise BadMessage(f"a text message has {len(text)} characters, at most {MAX_TEXT_BYTES} are read")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadMessage("a text message must be JSON; sound is sent in binary frames") from error
    if not isinstance(document, dict):
        raise BadMessage(f"a text message must be a JSON object, not {type(document).__name__}")
    kind = document.get("type")
    model = CLIENT_MESSAGES.get(kind) if isinstance(kind, str) else None
    if kind is None:
        raise ProtocolViolation(f"the message has no type; there are {', '.join(CLIENT_MESSAGES)}", param="type")
    if model is None:
        raise ProtocolViolation(
            f"there is no message type {str(kind)[:40]!r}; there are {', '.join(CLIENT_MESSAGES)}", param="type"
        )
    try:
        return model.model_validate(document)
    except pydantic.ValidationError as error:
        problem = parameter_error(error, model.model_fields)
        if model is Update and problem.param in Start.model_fields.keys() - Update.model_fields.keys():
            raise InvalidParameter(f"{problem.param} is chosen in start, for the whole stream", param=problem.param) from error
        raise problem from error


def parse_query(items: list[tuple[str, str]]) -> Start:
    """Parse the query string of the upgrade: the fields of `start`, with `labels` and `exclude` repeatable.

    Raises:
        InvalidParameter: A field does not exist, is out of range, or is given twice with different values.
    """
    fields = (item for item in items if item[0] not in {"type", "token"})  # the token is the handshake's business
    try:
        return Start.model_validate(collect_query(fields, Start.model_fields, {"labels", "exclude"}))
    except pydantic.ValidationError as error:
        raise parameter_error(error, Start.model_fields) from error


class ServerMessage(pydantic.BaseModel):
    """What the server says."""

    model_config = pydantic.ConfigDict(frozen=True, populate_by_name=True)

    left_out_when_none: ClassVar[tuple[str, ...]] = ("seq",)

    seq: int | None = None

    def to_json(self) -> str:
        """Return the text frame."""
        absent = {name for name in self.left_out_when_none if getattr(self, name) is None}
        return self.model_dump_json(by_alias=True, exclude=absent)


class TagItem(pydantic.BaseModel):
    """A label with its score in [0, 1]."""

    model_config = pydantic.ConfigDict(frozen=True, from_attributes=True)

    label: str
    id: int
    score: float


class StreamConfiguration(pydantic.BaseModel):
    """The whole effective configuration of a stream. `sample_rate` and `channels` are null for a container, which
    tells them itself."""

    model_config = pydantic.ConfigDict(frozen=True)

    model: str
    encoding: StreamEncoding
    sample_rate: int | None
    channels: int | None
    channel: int | None
    window: float
    hop: float
    top_k: int
    threshold: float
    labels: tuple[str, ...]
    exclude: tuple[str, ...]
    events: EventConfig | Literal[False]
    on_lag: OnLag


class ModelRef(pydantic.BaseModel):
    """Which model answers."""

    model_config = pydantic.ConfigDict(frozen=True)

    name: str
    sha256: str


class Limits(pydantic.BaseModel):
    """What the server holds a stream to; the settings of the same names."""

    model_config = pydantic.ConfigDict(frozen=True)

    max_lag_seconds: float
    max_ahead_seconds: float
    idle_seconds: float
    max_stream_seconds: float
    max_frame_bytes: int
    max_messages_per_second: float = 20.0


class Ready(ServerMessage):
    """`ready`: the configuration is complete; sound may come, from `resumed_at` on where a stream goes on."""

    left_out_when_none = ("seq", "resume_token", "resumed_at", "missing")

    type: Literal["ready"] = "ready"
    session_id: str
    protocol: int = PROTOCOL_VERSION
    model: ModelRef
    limits: Limits
    configuration: StreamConfiguration
    resume_token: str | None = None
    resumed_at: float | None = None
    missing: tuple[tuple[float, float], ...] | None = None


class Configured(ServerMessage):
    """`configuration`: the answer to `update`; what ends after `from` is treated so."""

    type: Literal["configuration"] = "configuration"
    from_: float = pydantic.Field(validation_alias="from", serialization_alias="from")
    configuration: StreamConfiguration


class Tags(ServerMessage):
    """`tags`: one window's result."""

    type: Literal["tags"] = "tags"
    start: float
    end: float
    coverage: float
    lag_ms: float
    tags: tuple[TagItem, ...]


class EventMessage(ServerMessage):
    """`event`: an onset, its correction, or the offset; `offset` before that is how far it is supported so far."""

    left_out_when_none = ("seq", "retracted")

    type: Literal["event"] = "event"
    event_id: int
    label: str
    phase: Literal["onset", "update", "offset"]
    onset: float
    offset: float
    peak: float
    retracted: Literal[True] | None = None


class Warn(ServerMessage):
    """`warning`: the stream goes on."""

    left_out_when_none = ("seq", "dropped_from", "dropped_to")

    type: Literal["warning"] = "warning"
    code: Literal["lag", "clipping", "silence", "sample_rate_suspect"]
    message: str
    dropped_from: float | None = None
    dropped_to: float | None = None


class ErrorMessage(ServerMessage):
    """`error`: a fatal one is followed by the close."""

    type: Literal["error"] = "error"
    code: str
    message: str
    param: str | None = None
    retryable: bool
    retry_after_s: float | None = None
    fatal: bool


class GoingAway(ServerMessage):
    """`going_away`: the server drains; results so far follow, then close 1001."""

    type: Literal["going_away"] = "going_away"
    message: str = "the server is going away; what was received is still answered, then reconnect"


class Summary(ServerMessage):
    """`summary`: last before close 1000."""

    type: Literal["summary"] = "summary"
    duration: float
    windows: int
    dropped_seconds: float
    events: int
