"""What counts as an event: thresholds in probabilities, durations in seconds, for all labels and for single ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import pydantic

Threshold = Annotated[float, pydantic.Field(gt=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, pydantic.Field(ge=0, le=600, allow_inf_nan=False)]


class LabelEventConfig(pydantic.BaseModel):
    """What one label does differently; what is not given is as for all labels."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    onset_threshold: Threshold | None = None
    offset_threshold: Threshold | None = None
    min_duration: Seconds | None = None
    max_gap: Seconds | None = None


class EventConfig(pydantic.BaseModel):
    """How events are found in s(t), the mean score of the windows over t.

    Attributes:
        onset_threshold: An event begins where s(t) first reaches this.
        offset_threshold: It ends where s(t) last was at or above this; at most `onset_threshold`.
        min_duration: Seconds; shorter events are discarded, after joining.
        max_gap: Seconds; events of a label that are at most this far apart are one.
        per_label: Other values for single labels, by name or id.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    onset_threshold: Threshold = 0.5
    offset_threshold: Threshold = 0.35
    min_duration: Seconds = 0.2
    max_gap: Seconds = 0.3
    per_label: dict[str, LabelEventConfig] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _check_order(self) -> EventConfig:
        for label in (None, *self.per_label):
            onset, offset, _, _ = self.for_label(label)
            if offset > onset:
                where = "" if label is None else f" for {label!r}"
                raise ValueError(f"offset_threshold {offset:g} is above onset_threshold {onset:g}{where}")
        return self

    def for_label(self, label: str | None) -> tuple[float, float, float, float]:
        """Return onset threshold, offset threshold, minimum duration and maximum gap of a key of `per_label`, or of all."""
        common = (self.onset_threshold, self.offset_threshold, self.min_duration, self.max_gap)
        if label is None:
            return common
        own = self.per_label[label]
        given = (own.onset_threshold, own.offset_threshold, own.min_duration, own.max_gap)
        onset, offset, duration, gap = (mine if mine is not None else all_ for mine, all_ in zip(given, common, strict=True))
        return onset, offset, duration, gap

    def merged(self, patch: Mapping[str, object]) -> EventConfig:
        """Return this configuration with a JSON merge patch applied (RFC 7396: null takes a value back to its default).

        Raises:
            pydantic.ValidationError: The result is not valid.
        """
        return EventConfig.model_validate(_merge_patch(self.model_dump(exclude_none=True), patch))


def _merge_patch(target: object, patch: object) -> object:
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge_patch(merged.get(key), value)
    return merged
