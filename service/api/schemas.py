"""The wire of REST: what may be asked, and the shapes of the answers."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from service.postprocess.scores import Aggregation, Function
from service.streaming.messages import TagItem

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
            "the last one aligned to the end; with timeline or events it is 1.0."
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


class _WindowType(pydantic.BaseModel):
    type: Literal["window"] = "window"


class WindowLine(WindowItem, _WindowType):
    """A line of an NDJSON answer: one window; `progress` is how much of the clip is done, 0 to 1."""

    progress: float


class _SummaryType(pydantic.BaseModel):
    type: Literal["summary"] = "summary"


class SummaryLine(ClipAnswer, _SummaryType):
    """The last line of an NDJSON answer."""


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


class _ErrorType(pydantic.BaseModel):
    type: Literal["error"] = "error"


class ErrorLine(ErrorAnswer, _ErrorType):
    """The last line of an NDJSON answer that broke off."""


class BatchAnswer(pydantic.BaseModel):
    """One answer or error for each `file` part, in order."""

    results: list[ClipAnswer | ErrorAnswer]


class LabelItem(pydantic.BaseModel):
    """A label with its id."""

    id: int
    label: str


class LabelsAnswer(pydantic.BaseModel):
    """A model's labels, in the order of their ids."""

    model: str
    labels: list[LabelItem]


class HealthAnswer(pydantic.BaseModel):
    """The service's state."""

    status: str


class HuggingFaceParameters(pydantic.BaseModel):
    """`parameters` of Hugging Face's audio-classification task."""

    model_config = pydantic.ConfigDict(extra="forbid")

    top_k: Annotated[int, pydantic.Field(ge=1)] | None = None
    function_to_apply: Function | None = None


class HuggingFaceRequest(pydantic.BaseModel):
    """The JSON form of a request of Hugging Face's audio-classification task."""

    model_config = pydantic.ConfigDict(extra="forbid")

    inputs: str
    parameters: HuggingFaceParameters | None = None


class HuggingFaceItem(pydantic.BaseModel):
    """A label with its score, as Hugging Face's clients read it."""

    label: str
    score: float
