"""The configuration of a stream: put together from the query and `start`, checked against the model, changed by `update`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from service.audio.formats import ENCODINGS, RawFormat
from service.errors import InvalidParameter, NotFound, ProtocolViolation
from service.inference.runner import ModelSpec
from service.options import Grid, make_selector, make_thresholds, parse_events, resolve_grid
from service.postprocess.event_config import EventConfig
from service.postprocess.hysteresis import Thresholds
from service.postprocess.scores import TagSelector
from service.streaming.messages import Changeable, OnLag, Start, StreamConfiguration

DEFAULT_TOP_K = 5
DEFAULT_THRESHOLD = 0.1


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How the binary frames are to be read.

    Attributes:
        raw: The format of a raw stream, or None for a container that tells its own.
        channel: The channel to take, or None for the mean of all.
    """

    raw: RawFormat | None
    channel: int | None


@dataclass(frozen=True, slots=True)
class ActiveConfiguration:
    """A complete, checked configuration.

    Attributes:
        spec: The model.
        audio: How sound comes.
        grid: Which windows are scored.
        selector: Which tags are sent.
        events: What counts as an event; None for no events.
        thresholds: The same, for the detector.
        on_lag: What happens to windows that come too late.
    """

    spec: ModelSpec
    audio: AudioFormat
    grid: Grid
    selector: TagSelector
    events: EventConfig | None
    thresholds: Thresholds
    on_lag: OnLag

    def to_wire(self) -> StreamConfiguration:
        """Return what the client is told."""
        spec, raw, selector = self.spec, self.audio.raw, self.selector
        return StreamConfiguration(
            model=spec.name,
            encoding=raw.encoding if raw else "auto",
            sample_rate=raw.sample_rate if raw else None,
            channels=raw.channels if raw else None,
            channel=self.audio.channel,
            window=self.grid.window_samples / spec.sample_rate,
            hop=self.grid.hop_samples / spec.sample_rate,
            top_k=min(selector.top_k, len(spec.labels)),
            threshold=selector.threshold,
            labels=tuple(spec.labels[index] for index in sorted(selector.include or ())),
            exclude=tuple(spec.labels[index] for index in sorted(selector.exclude)),
            events=self.events or False,
            on_lag=self.on_lag,
        )

    def updated(self, update: Changeable, defaults: EventConfig) -> ActiveConfiguration:
        """Return this configuration with an `update` applied.

        Raises:
            InvalidParameter: A value does not fit the model or the window.
        """
        spec, old = self.spec, self.selector
        labels: list[str | int] = list(old.include or ()) if update.labels is None else update.labels
        exclude: list[str | int] = list(old.exclude) if update.exclude is None else update.exclude
        selector = make_selector(
            spec,
            old.top_k if update.top_k is None else update.top_k,
            old.threshold if update.threshold is None else update.threshold,
            labels,
            exclude,
        )
        grid = self.grid
        if update.hop is not None:
            grid = resolve_grid(spec, grid.window_samples / spec.sample_rate, update.hop)
        events = self.events
        if update.events is not None:
            events = parse_events(update.events, self.events or defaults)
        thresholds = make_thresholds(spec, events, selector)
        return dataclasses.replace(self, grid=grid, selector=selector, events=events, thresholds=thresholds)


def merge_start(given: Start, start: Start) -> Start:
    """Return what the query and a `start` message say together.

    Raises:
        ProtocolViolation: They contradict each other.
    """
    merged = given.model_dump(exclude_none=True)
    for name, value in start.model_dump(exclude_none=True, exclude={"type"}).items():
        if name in merged and _comparable(merged[name]) != _comparable(value):
            raise ProtocolViolation(f"{name} is {merged[name]!r} in the query and {value!r} in start: give it once", param=name)
        merged[name] = value
    return Start.model_validate(merged)


def _comparable(value: object) -> object:
    """A query carries as text what `start` carries as JSON."""
    if isinstance(value, list):
        return [str(item) for item in value]
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def find_missing(start: Start) -> InvalidParameter | None:
    """Return what is missing to read sound, or None when the configuration is complete."""
    if start.encoding is None:
        return InvalidParameter(
            f"encoding is missing: give {', '.join(ENCODINGS)}, or auto for a container (WAV, MP3, WebM and so on), "
            "in the query or in start",
            param="encoding",
        )
    if start.encoding != "auto" and start.sample_rate is None:
        return InvalidParameter(
            f"sample_rate is missing: {start.encoding} sound does not tell it; give it in the query or in start",
            param="sample_rate",
        )
    return None


def resolve_start(
    start: Start, models: Mapping[str, ModelSpec], default_model: str, defaults: EventConfig
) -> ActiveConfiguration:
    """Check what the query and `start` said and fill in the defaults.

    Raises:
        NotFound: There is no such model.
        InvalidParameter: A value is out of range, or sound cannot be read with what is given.
        UnknownLabel: A label is none of the model's.
    """
    if missing := find_missing(start):
        raise missing
    spec = models.get(start.model or default_model)
    if spec is None:
        raise NotFound(f"there is no model {start.model!r}; served are {', '.join(models)}", param="model")
    audio = AudioFormat(_raw_format(start), start.channel)
    channels = audio.raw.channels if audio.raw else None
    if start.channel is not None and channels is not None and start.channel >= channels:
        raise InvalidParameter(f"channel is {start.channel}; the stream has {channels}, counted from 0", param="channel")
    selector = make_selector(
        spec,
        DEFAULT_TOP_K if start.top_k is None else start.top_k,
        DEFAULT_THRESHOLD if start.threshold is None else start.threshold,
        start.labels or [],
        start.exclude or [],
    )
    events = defaults if start.events is None else parse_events(start.events, defaults)
    return ActiveConfiguration(
        spec=spec,
        audio=audio,
        grid=resolve_grid(spec, start.window, start.hop),
        selector=selector,
        events=events,
        thresholds=make_thresholds(spec, events, selector),
        on_lag=start.on_lag or "skip",
    )


def _raw_format(start: Start) -> RawFormat | None:
    if start.encoding == "auto":
        for name in ("sample_rate", "channels"):
            if getattr(start, name) is not None:
                raise InvalidParameter(f"{name} does not go with encoding=auto: a container tells its own", param=name)
        return None
    assert start.encoding is not None  # see find_missing
    assert start.sample_rate is not None
    return RawFormat(start.encoding, start.sample_rate, 1 if start.channels is None else start.channels)
