"""The wire of REST: what may be asked, and the shapes of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import pydantic

from service.answers import ClipAnswer, ErrorAnswer, WindowItem
from service.postprocess.scores import Function


def error_responses(texts: Mapping[int, str]) -> dict[int | str, dict[str, object]]:
    """Return what an OpenAPI description says of errors, as FastAPI's `responses` takes it.

    Args:
        texts: What each status means.
    """
    return {status: {"model": ErrorAnswer, "description": text} for status, text in texts.items()}


class _WindowType(pydantic.BaseModel):
    type: Literal["window"] = "window"


class WindowLine(WindowItem, _WindowType):
    """A line of an NDJSON answer: one window; `progress` is how much of the clip is done, 0 to 1."""

    progress: float


class _SummaryType(pydantic.BaseModel):
    type: Literal["summary"] = "summary"


class SummaryLine(ClipAnswer, _SummaryType):
    """The last line of an NDJSON answer."""


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
