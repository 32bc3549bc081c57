"""What may be asked of a clip, and the shape of its answer: over REST, line by line, and on the command line."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import pydantic

from service.errors import InvalidParameter, ServiceError
from service.postprocess.scores import Aggregation
from service.streaming.messages import TagItem

MAX_TIMELINE_TAGS = 250_000
"""Of one JSON answer: 190 MB until it is sent, and an hour with the shortest hop has 180,000. Longer ones go line by line."""
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class _Query(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class ClassifyQuery(_Query):
    """The parameters of `POST /v1/classify`. Each label is one exact name (any case) or integer id; names hold commas."""

    top_k: Annotated[int, pydantic.Field(ge=1, description="How many tags; more than there are labels means all.")] = 5
    threshold: Annotated[float, pydantic.Field(ge=0, le=1, allow_inf_nan=False, description="Keep score >= threshold.")] = 0
    labels: Annotated[list[str], pydantic.Field(description="Only these labels; repeat the parameter for each.")] = []
    exclude: Annotated[list[str], pydantic.Field(description="Not these labels; repeat the parameter for each.")] = []
    window: Annotated[Finite | None, pydantic.Field(description="Seconds; the model's own by default.")] = None
    hop: Annotated[
        Finite | None,
        pydantic.Field(
            description="Seconds between window ends, as in a stream. Without it full windows lie side by side, "
            "the last one aligned to the end; with timeline or events it is the model's own, 1.0 for the embedded one."
        ),
    ] = None
    aggregate: Annotated[Aggregation, pydantic.Field(description="How the windows' scores become one.")] = "mean"
    timeline: Annotated[bool, pydantic.Field(description="Answer with each window's tags too.")] = False
    embedding: Annotated[bool, pydantic.Field(description="Answer with the embedding too.")] = False
    events: Annotated[
        str | None,
        pydantic.Field(description='true, false, or a JSON object that changes the defaults: {"onset_threshold": 0.4}.'),
    ] = None
    model: Annotated[str | None, pydantic.Field(description="The default model by default.")] = None
    channel: Annotated[int | None, pydantic.Field(ge=0, description="One channel, from 0; else the mean of all.")] = None


class WindowItem(pydantic.BaseModel):
    """One window's tags."""

    start: float
    end: float
    tags: tuple[TagItem, ...]


class EventItem(pydantic.BaseModel):
    """A stretch in which a label is heard; seconds from the clip's start."""

    label: str
    onset: float
    offset: float
    peak: float


class ClipAnswer(pydantic.BaseModel):
    """What is heard in a clip. `windows`, `events` and `embedding` are there when they were asked for."""

    model: str
    duration: float
    tags: tuple[TagItem, ...]
    windows: list[WindowItem] | None = None
    events: tuple[EventItem, ...] | None = None
    embedding: list[float] | None = None


class CapacityItem(pydantic.BaseModel):
    """One model's speed and queue, over all workers. The speed is that of the last ten seconds; what is possible is what the
    last runs took, and null before the first one. Its precision, threads and batches were chosen by `rule`, or `measured` by
    `sonotag bench --tune` at `tuned_at`."""

    model: str
    windows_per_second: float
    windows_per_second_possible: float | None
    queue_depth: int
    queue_limit: int
    tuning: Literal["rule", "measured"] = "rule"
    tuned_at: datetime | None = None


class MeasuredCapacity(pydantic.BaseModel):
    """What `sonotag bench` measured of this model on this machine: the most live streams of which 99 of 100 windows were
    answered within `slo_seconds` and none was dropped."""

    model_config = pydantic.ConfigDict(from_attributes=True)

    streams: int
    windows_per_second: float
    slo_seconds: float
    hop_seconds: float
    measured_at: datetime


class CapacityAnswer(pydantic.BaseModel):
    """How much the whole service has to do, and how much it can take."""

    streams_open: int
    streams_limit: int
    streams_limit_from: Literal["setting", "measured", "default"]
    workers: int
    workers_ready: int
    models: list[CapacityItem]
    measured: MeasuredCapacity | None


class ErrorBody(pydantic.BaseModel):
    """What went wrong, and whether trying again can help."""

    code: str
    message: str
    param: str | None = None
    retryable: bool = False
    retry_after_s: float | None = None


class ErrorAnswer(pydantic.BaseModel):
    """Every error has this shape."""

    error: ErrorBody


def check_timeline(num_tags: int) -> None:
    """Refuse a timeline that is too long to be held in one answer, wherever it is put together.

    Raises:
        InvalidParameter: It is.
    """
    if num_tags > MAX_TIMELINE_TAGS:
        raise InvalidParameter(
            f"the timeline has more than {MAX_TIMELINE_TAGS} tags: ask for a longer hop, a smaller top_k, a higher threshold, "
            "or for lines (Accept: application/x-ndjson)",
            param="timeline",
        )


def error_body(error: ServiceError) -> ErrorBody:
    """Return the wire form of an error."""
    return ErrorBody(
        code=error.code,
        message=error.message,
        param=error.param,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
    )


def to_json(item: pydantic.BaseModel) -> bytes:
    """Return the JSON of an answer, a line or an error: what was not asked for is left out, an error keeps its whole shape."""
    left_out = {name for name in ("windows", "events", "embedding") if getattr(item, name, ()) is None}
    return item.model_dump_json(exclude=left_out).encode()
