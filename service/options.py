"""What a caller may choose about scoring, for clips and streams alike: windows, tags, events, checked against a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pydantic

from service.errors import InvalidParameter
from service.inference.runner import ModelSpec
from service.postprocess.event_config import EventConfig
from service.postprocess.hysteresis import Thresholds
from service.postprocess.scores import TagSelector
from service.validation import parameter_error

MIN_HOP_SECONDS = 0.1
MAX_GRID_SECONDS = 1e6
"""More than any model's window."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A window and a hop in samples at the model's rate."""

    window_samples: int
    hop_samples: int


def whole_windows_per_second(spec: ModelSpec, grid: Grid) -> float:
    """Return what a stream asks of the model, in its longest windows a second: shorter ones cost about as much less."""
    return spec.sample_rate / grid.hop_samples * spec.holding(grid.window_samples) / spec.window_samples


def resolve_grid(spec: ModelSpec, window: float | None, hop: float | None) -> Grid:
    """Return the windows a caller asked for.

    Args:
        spec: The model.
        window: Seconds; None for the model's own, which is also the longest.
        hop: Seconds; None for the bundle's, at least 0.1, or the window where that is shorter.

    Raises:
        InvalidParameter: The model cannot take such windows; the message says what it takes.
    """
    rate = spec.sample_rate
    window_samples = spec.window_samples if window is None else _to_samples(window, rate)
    shortest = round(MIN_HOP_SECONDS * rate)
    shortest_window = min(max(shortest, spec.min_samples), spec.window_samples)
    if not shortest_window <= window_samples <= spec.window_samples:
        raise InvalidParameter(
            f"window is {window:g} s; model {spec.name} takes {shortest_window / rate:g} to {spec.window_samples / rate:g} s",
            param="window",
        )
    hop_samples = min(max(spec.hop_samples, shortest), window_samples) if hop is None else _to_samples(hop, rate)
    if not min(shortest, window_samples) <= hop_samples <= window_samples:
        raise InvalidParameter(
            f"hop is {hop:g} s; it must be from {MIN_HOP_SECONDS} s to the window, {window_samples / rate:g} s", param="hop"
        )
    return Grid(window_samples, hop_samples)


def _to_samples(seconds: float, rate: int) -> int:
    return round(
        max(-MAX_GRID_SECONDS, min(seconds, MAX_GRID_SECONDS)) * rate
    )  # what is finite in seconds need not be in samples


def make_selector(
    spec: ModelSpec, top_k: int, threshold: float, labels: Sequence[str | int], exclude: Sequence[str | int]
) -> TagSelector:
    """Return the tags a caller asked for; no `labels` means all.

    Raises:
        UnknownLabel: A label is none of the model's.
    """
    return TagSelector(
        labels=spec.labels,
        top_k=top_k,
        threshold=threshold,
        include=spec.labels.resolve_all(labels, param="labels") if labels else None,
        exclude=spec.labels.resolve_all(exclude, param="exclude"),
    )


def make_thresholds(spec: ModelSpec, config: EventConfig | None, selector: TagSelector) -> Thresholds:
    """Return the detector's thresholds: events of the labels that may appear as tags.

    Raises:
        UnknownLabel: `per_label` names a label that is none of the model's.
        InvalidParameter: It names one twice.
    """
    return Thresholds.compile(config, spec.labels, spec.sample_rate, selector.selected)


def parse_events(value: object, base: EventConfig) -> EventConfig | None:
    """Return the event configuration that a caller wrote, or None for no events.

    Args:
        value: A boolean, an object, or either as JSON text; an object changes `base` (RFC 7396).
        base: What holds where the caller says nothing.

    Raises:
        InvalidParameter: It is none of these, or its values are out of range.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.casefold() in {"true", "1", "yes", "on"}:
            value = True
        elif text.casefold() in {"false", "0", "no", "off"}:
            value = False
        else:
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                value = text
    if isinstance(value, bool):
        return base if value else None
    if not isinstance(value, Mapping):
        raise InvalidParameter(
            f'events must be true, false or an object such as {{"onset_threshold": 0.5}}; got {str(value)[:80]!r}',
            param="events",
        )
    try:
        return base.merged(value)
    except pydantic.ValidationError as error:
        raise parameter_error(error, EventConfig.model_fields, "events.") from error
