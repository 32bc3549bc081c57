"""The room on disk for the bodies of requests of the whole service: who has how much of it."""

from __future__ import annotations


class DiskRoom:
    """Counts bytes by worker and body, so that what a dead worker held is free again. Pure.

    Args:
        limit_bytes: How many there are (SONOTAG_MAX_SPOOLED_BODIES).
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._held: dict[int, dict[str, int]] = {}

    @property
    def taken_bytes(self) -> int:
        """How many are held."""
        return sum(sum(holders.values()) for holders in self._held.values())

    def hold(self, worker: int, holder: str, num_bytes: int, needed_bytes: int) -> int | None:
        """Let a worker's body have room.

        Args:
            worker: Whose.
            holder: Which body of that worker's.
            num_bytes: How much it is to have in all, what it has already among it.
            needed_bytes: How much must be there for it: less than that where some of it is set aside, more where it is known
                how long the body will be. What is not there yet is not set aside: others may have it before it comes.

        Returns:
            How much it has now, at most `num_bytes`; None where there is not what it needs, and it has what it had.
        """
        holders = self._held.setdefault(worker, {})
        free = self.limit_bytes - self.taken_bytes + holders.get(holder, 0)
        if free < needed_bytes:
            return None
        holders[holder] = min(num_bytes, free)
        return holders[holder]

    def leave(self, worker: int, holder: str) -> None:
        """Take a body's room back; it may have none."""
        self._held.get(worker, {}).pop(holder, None)

    def forget(self, worker: int) -> None:
        """Take back whatever a dead worker held."""
        self._held.pop(worker, None)
