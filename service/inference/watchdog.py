"""Notices a model whose run does not come back: a driver that hangs, a deadlock in a library. No thread can be ended, so the
process that has one is of no more use and must be replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from service.inference.batcher import Batcher

MAX_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class HungRun:
    """A run that has taken too long.

    Attributes:
        model: Whose.
        seconds: For how long it has been going on.
    """

    model: str
    seconds: float


class Watchdog:
    """Looks at the models' runs. It belongs to the event loop.

    Args:
        batchers: The models; asked for anew each time, since they may be replaced.
        limit_seconds: A run longer than this hangs (SONOTAG_WATCHDOG_SECONDS).
        clock: Seconds, rising; the batchers' own.
    """

    def __init__(self, batchers: Iterable[Batcher], limit_seconds: float, clock: Callable[[], float]) -> None:
        self._batchers = batchers
        self._limit = limit_seconds
        self._clock = clock

    def check(self) -> HungRun | None:
        """Return the first run that hangs now, if there is one."""
        now = self._clock()
        for batcher in self._batchers:
            since = batcher.running_since
            if since is not None and now - since > self._limit:
                return HungRun(batcher.spec.name, now - since)
        return None

    async def watch(self) -> HungRun:
        """Wait until a run hangs."""
        while True:
            if hung := self.check():
                return hung
            await asyncio.sleep(min(MAX_INTERVAL_SECONDS, self._limit / 4))
