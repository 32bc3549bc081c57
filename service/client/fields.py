"""What a caller may ask for, as keyword arguments: the fields of `ClassifyQuery` and of the stream's `start`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import pydantic

from service.answers import ClassifyQuery
from service.audio.formats import Encoding
from service.errors import InvalidParameter
from service.postprocess.event_config import EventConfig
from service.postprocess.scores import Aggregation
from service.streaming.messages import OnLag, Start
from service.validation import parameter_error

Events = bool | Mapping[str, object] | EventConfig
"""True for the server's own configuration, or what is different from it."""


class Choices(TypedDict, total=False):
    """What is wanted of any sound."""

    top_k: int
    threshold: float
    labels: Sequence[str | int]
    exclude: Sequence[str | int]
    window: float
    hop: float
    events: Events
    model: str
    channel: int


class ClassifyFields(Choices, total=False):
    """The fields of `ClassifyQuery`."""

    aggregate: Aggregation
    timeline: bool
    embedding: bool


class StartFields(Choices, total=False):
    """The fields of `Start`, without those that begin an old stream again."""

    encoding: Encoding
    channels: int
    on_lag: OnLag


def make_query(fields: ClassifyFields) -> ClassifyQuery:
    """Check what is asked of a clip.

    Raises:
        InvalidParameter: A field does not exist or is of the wrong type; what the model allows only the server knows.
    """
    document = dict(fields)
    for name in ("labels", "exclude"):
        if name in document:
            document[name] = [str(label) for label in _label_list(name, document[name])]
    if "events" in document:
        document["events"] = json.dumps(_plain(document["events"]))
    try:
        return ClassifyQuery.model_validate(document)
    except pydantic.ValidationError as error:
        raise parameter_error(error, ClassifyQuery.model_fields) from error


def query_items(query: ClassifyQuery) -> tuple[tuple[str, str], ...]:
    """Return the query string of a request: the fields that were given."""
    items: list[tuple[str, str]] = []
    for name, value in query.model_dump(exclude_unset=True, exclude_none=True).items():
        values = value if isinstance(value, list) else [value]
        items += [(name, str(one).lower() if isinstance(one, bool) else str(one)) for one in values]
    return tuple(items)


def make_start(fields: Mapping[str, object]) -> Start:
    """Check what is asked of a stream.

    Raises:
        InvalidParameter: As of `make_query`.
    """
    document: dict[str, Any] = {"encoding": "auto", **fields}
    if "events" in document:
        document["events"] = _plain(document["events"])
    for name in ("labels", "exclude"):
        if name in document:
            document[name] = _label_list(name, document[name])
    try:
        return Start.model_validate(document)
    except pydantic.ValidationError as error:
        raise parameter_error(error, Start.model_fields) from error


def _label_list(name: str, labels: object) -> list[object]:
    if isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable):
        raise InvalidParameter(f"{name} is {str(labels)[:80]!r}; a list of names or ids is expected, also for one", param=name)
    return list(labels)


def _plain(events: object) -> object:
    if isinstance(events, EventConfig):
        return events.model_dump(exclude_unset=True)
    return dict(events) if isinstance(events, Mapping) else events
