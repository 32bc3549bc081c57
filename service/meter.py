"""What counts the sound of one request or stream against whoever sent it; `service.access.quotas` is the one that does."""

from __future__ import annotations

from typing import Protocol


class Meter(Protocol):
    """Takes seconds of sound off what a caller may still send. It belongs to the event loop."""

    def check_whole(self, seconds: float) -> None:
        """A clip is so long, or longer: refuse it where its caller can never send so much.

        Raises:
            ClipTooLong: It is more than they may send in a whole day.
        """
        ...

    async def require(self, seconds: float) -> None:
        """See to it that so many seconds, whole or not at all, are set aside before anything is spent on them.

        Raises:
            ClipTooLong: As of `check_whole`.
            QuotaExceeded: So many are not left.
        """
        ...

    async def take(self, seconds: float) -> None:
        """So many seconds came in.

        Raises:
            ClipTooLong: As of `check_whole`.
            QuotaExceeded: They are not left.
        """
        ...


class Unmetered:
    """Lets everything through."""

    def check_whole(self, seconds: float) -> None:
        """See `Meter`."""

    async def require(self, seconds: float) -> None:
        """See `Meter`."""

    async def take(self, seconds: float) -> None:
        """See `Meter`."""


UNMETERED: Meter = Unmetered()
"""For callers who are held to nothing."""
