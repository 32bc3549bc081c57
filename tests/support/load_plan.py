"""A stage of the load generator that is over in seconds: a service with a fake model keeps its objective with ease."""

from __future__ import annotations

from service.bench.stages import Plan
from tests.support.runners import level

PLAN = Plan(
    sounds=(level(1, 24_000), level(2, 20_000)),
    sample_rate=16_000,
    hop_seconds=0.2,
    slo_seconds=5.0,
    settle_seconds=0.5,
    measure_seconds=1.0,
    grace_seconds=1.0,
    num_generators=2,
)
