"""How many messages a client may send: a bucket that fills steadily. Pure: the clock is the caller's."""

from __future__ import annotations

from service.errors import TooManyMessages

BURST_SECONDS = 10.0
"""What may come at once, in seconds of the steady rate: a slider that is moved, a program that catches up."""


class MessageRate:
    """Counts text messages against a limit.

    Args:
        max_per_second: The steady rate; ten seconds' worth may come at once.
    """

    def __init__(self, max_per_second: float) -> None:
        self._max_per_second = max_per_second
        self._capacity = max(1.0, max_per_second * BURST_SECONDS)
        self._left = self._capacity
        self._counted_at: float | None = None

    def count(self, now: float) -> None:
        """Count a message at a clock time.

        Raises:
            TooManyMessages: It is one too many.
        """
        if self._counted_at is not None:
            self._left = min(self._capacity, self._left + (now - self._counted_at) * self._max_per_second)
        self._counted_at = now
        if self._left < 1.0:
            raise TooManyMessages(
                f"more than {self._max_per_second:g} text messages a second came (SONOTAG_MAX_MESSAGES_PER_SECOND): sound is "
                "sent in binary frames, and one update can change several things"
            )
        self._left -= 1.0
