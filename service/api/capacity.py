"""`/v1/capacity`: what the gauges of all workers say, in one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.answers import CapacityAnswer, CapacityItem, MeasuredCapacity
from service.capacity import StreamLimit
from service.inference.runner import ModelSpec

Gauges = Mapping[str, Mapping[str, float]]


def make_capacity(gauges: Gauges, models: Sequence[ModelSpec], limit: StreamLimit) -> CapacityAnswer:
    """Return the answer.

    Args:
        gauges: `Metrics.read_gauges`.
        models: The served models, the default first.
        limit: Who decides how many streams there may be. How many is what the workers' gauges say together: a worker that is
            being replaced takes none.
    """

    def total(name: str, model: str = "") -> float:
        return gauges.get(name, {}).get(model, 0.0)

    return CapacityAnswer(
        streams_open=round(total("sonotag_streams_open")),
        streams_limit=round(total("sonotag_streams_limit")),
        streams_limit_from=limit.origin,
        workers=round(total("sonotag_workers")),
        workers_ready=round(total("sonotag_workers_ready")),
        models=[
            CapacityItem(
                model=model.name,
                windows_per_second=round(total("sonotag_windows_per_second", model.name), 3),
                windows_per_second_possible=round(total("sonotag_windows_possible_per_second", model.name), 3) or None,
                queue_depth=round(total("sonotag_queue_depth_windows", model.name)),
                queue_limit=round(total("sonotag_queue_limit_windows", model.name)),
                tuning="rule" if model.tuned_at is None else "measured",
                tuned_at=model.tuned_at,
            )
            for model in models
        ],
        measured=None if limit.measurement is None else MeasuredCapacity.model_validate(limit.measurement),
    )
