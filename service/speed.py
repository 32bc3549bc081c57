"""How fast the models are: lately, and at most. Each worker says it once a second, as gauges that add up over all workers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from service.inference.batcher import Batcher
from service.metrics import Metrics

SPAN_SECONDS = 10.0
TICK_SECONDS = 1.0


class SpeedMeter:
    """Windows a second over the last seconds, from a count that only rises. Pure: the caller brings the time.

    Args:
        span_seconds: Over how long.
    """

    def __init__(self, span_seconds: float = SPAN_SECONDS) -> None:
        self._span = span_seconds
        self._samples: deque[tuple[float, int]] = deque()

    def push(self, now: float, count: int) -> float:
        """Take the count at a time and return the speed since the oldest count of the span; 0 for the first one."""
        self._samples.append((now, count))
        while now - self._samples[0][0] > self._span:
            self._samples.popleft()
        then, before = self._samples[0]
        return (count - before) / (now - then) if now > then else 0.0


def measure_speed(batchers: Iterable[Batcher], metrics: Metrics, meters: dict[str, SpeedMeter], now: float) -> None:
    """Say how fast each model is. A meter is made where a model has none yet."""
    for batcher in batchers:
        name, seconds = batcher.spec.name, batcher.seconds_per_window
        speed = meters.setdefault(name, SpeedMeter()).push(now, metrics.num_scored(name))
        metrics.speed_measured(name, speed, 1 / seconds if seconds else None)


async def watch_speed(batchers: Iterable[Batcher], metrics: Metrics, clock: Callable[[], float]) -> None:
    """Say it every second, until cancelled; the models are asked for anew each time, since they may be replaced."""
    meters: dict[str, SpeedMeter] = {}
    while True:
        measure_speed(batchers, metrics, meters, clock())
        await asyncio.sleep(TICK_SECONDS)
