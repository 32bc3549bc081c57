"""A clock that tests move by hand."""

from __future__ import annotations


class Clock:
    """Stands still until it is told to move.

    Args:
        now: Seconds, to begin with.
    """

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
