"""A timer of the event loop that is set again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

MARGIN_SECONDS: Final = 0.001
"""An alarm rings so much later: the loop may call back a moment before its time, when nothing is due yet."""


class Alarm:
    """Calls back at a clock time, once for each time that is set. Its methods belong to the event loop.

    Args:
        clock: Seconds, rising.
        ring: Called then; it may set the alarm again.
    """

    def __init__(self, clock: Callable[[], float], ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    @property
    def is_set(self) -> bool:
        """Whether it will ring."""
        return self._timer is not None

    def set(self, at: float | None) -> None:
        """Ring at a clock time, or not at all.

        An alarm that is set already and earlier is left: every frame moves the idle time-out, and whoever is called too early
        finds nothing to do and sets the alarm again.
        """
        if self._timer and (at is None or at < self._at):
            self.cancel()
        if at is not None and self._timer is None:
            self._at = at
            delay = max(0.0, at - self._clock()) + MARGIN_SECONDS
            self._timer = asyncio.get_running_loop().call_later(delay, self._go_off)

    def cancel(self) -> None:
        """Do not ring."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _go_off(self) -> None:
        self._timer = None
        self._ring()
