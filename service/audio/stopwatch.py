"""How long each stage took, where someone wants to know."""

from __future__ import annotations

from collections.abc import Callable

from service.observer import Stage

Observe = Callable[[Stage, float], None]
Clock = Callable[[], float]


class Stopwatch:
    """Adds up the seconds of each stage and reports them.

    Args:
        observe: Hears them; None for nobody.
        clock: Seconds, rising; without it nothing is measured.
    """

    def __init__(self, observe: Observe | None, clock: Clock | None) -> None:
        self._observe = observe
        self._clock = clock
        self._seconds: dict[Stage, float] = {}
        self._started = 0.0

    def start(self) -> None:
        """Count from now on."""
        if self._clock is not None:
            self._started = self._clock()

    def lap(self, stage: Stage) -> None:
        """Count the time since `start`, or the last lap, towards a stage."""
        if self._clock is not None:
            now = self._clock()
            self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._started
            self._started = now

    def report(self) -> None:
        """Tell the observer what was counted since the last report."""
        seconds, self._seconds = self._seconds, {}
        if self._observe is not None:
            for stage, duration in seconds.items():
                self._observe(stage, duration)
