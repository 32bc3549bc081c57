"""Which number of streams to try next. Pure."""

from __future__ import annotations

from collections.abc import Collection

RESOLUTION = 0.05
"""How close the largest number that held and the smallest that broke must come, as a share of the latter."""


def next_number(kept: Collection[int], broken: Collection[int], *, first: int, largest: int) -> int | None:
    """Return the next number of streams: twice the last one until the objective breaks, then halves of what is between.

    Args:
        kept: The numbers that kept the objective.
        broken: Those that did not.
        first: Where to begin.
        largest: The most that may be tried.

    Returns:
        The number, or None where nothing more is to be learned.
    """
    if not broken:
        best = max(kept, default=0)
        if best >= largest:
            return None
        return min(2 * best if best else first, largest)
    low, high = max((number for number in kept if number < min(broken)), default=0), min(broken)
    if high - low <= max(1, high * RESOLUTION):
        return None
    return (low + high) // 2
