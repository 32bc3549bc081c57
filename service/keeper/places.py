"""The places for live streams of the whole service: who holds one, and how many there are."""

from __future__ import annotations


class StreamPlaces:
    """Counts places by worker, so that what a dead worker held is free again. Pure.

    Args:
        limit: How many there are (SONOTAG_MAX_STREAMS).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: dict[int, set[str]] = {}

    @property
    def taken(self) -> int:
        """How many are held."""
        return sum(len(holders) for holders in self._held.values())

    def take(self, worker: int, holder: str) -> bool:
        """Give a worker's stream a place; True when it has one, also where it had it before."""
        holders = self._held.setdefault(worker, set())
        if holder not in holders and self.taken >= self.limit:
            return False
        holders.add(holder)
        return True

    def leave(self, worker: int, holder: str) -> None:
        """Take a place back; it may be none."""
        self._held.get(worker, set()).discard(holder)

    def forget(self, worker: int) -> None:
        """Take back whatever a dead worker held."""
        self._held.pop(worker, None)
