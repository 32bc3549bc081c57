"""A live stream's place among those of the whole service (SONOTAG_MAX_STREAMS, or what was measured)."""

from __future__ import annotations

from service.capacity import StreamLimit
from service.errors import QueueFull
from service.keeper.client import KeeperClient
from service.keeper.topics import LEAVE_PLACE, TAKE_PLACE, LeavePlace, TakePlace

RETRY_SECONDS = 5.0
"""Streams last minutes: one that frees its place in this time is luck, and a client that asks more often costs more."""


class StreamPlace:
    """One place, which a stream holds from its admission to its end.

    Args:
        keeper: Counts the places.
        holder: The stream's id.
        limit: How many there may be.
    """

    def __init__(self, keeper: KeeperClient, holder: str, limit: StreamLimit) -> None:
        self._limit = limit
        self._keeper = keeper
        self._holder = holder

    async def take(self) -> None:
        """Take the place. Whatever becomes of this, `leave` must follow: the place may be given after the caller left.

        Raises:
            QueueFull: All are taken.
            Unavailable: The supervisor does not answer: what it counts is not known, so nothing more is admitted.
        """
        place = await self._keeper.ask(TAKE_PLACE, TakePlace(holder=self._holder, limit=self._limit.streams))
        if not place.is_granted:
            raise QueueFull(
                f"{place.taken} streams are open, the limit is {place.limit} ({self._limit.explanation})",
                retry_after_s=RETRY_SECONDS,
            )

    def leave(self) -> None:
        """Give the place back; it may be none, and twice is once."""
        self._keeper.tell(LEAVE_PLACE, LeavePlace(holder=self._holder))
