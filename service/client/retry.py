"""When to try again: where the error says that it can help, after the time it says, so many times and no longer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from service.errors import ServiceError

Answer = TypeVar("Answer")
OFTEN = 4
"""Failures after which the pause does not grow where time is short: it is 4 s then, at most."""

SPREAD = 0.25
"""Up to so much of the time that an error asks for is added: those that were refused together were told the same."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How failed requests are repeated.

    Attributes:
        attempts: Tries in all, at least 1; 1 repeats nothing.
        first_wait_seconds: The pause after the first failure where the error names none; it doubles with each failure.
        max_wait_seconds: The longest pause. An error that asks for a longer one is raised at once.
        sleep: Pauses, in seconds.
        clock: Seconds, rising.
        random: Returns numbers in [0, 1): clients that failed together do not come back together.
    """

    attempts: int = 5
    first_wait_seconds: float = 0.5
    max_wait_seconds: float = 30.0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random

    async def run(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the result of the first attempt that succeeds.

        Raises:
            ServiceError: It is not retryable, asks for too long a pause, or was the last one.
        """
        for number in range(1, self.attempts):
            try:
                return await attempt()
            except ServiceError as error:
                pause = self.pause_seconds(number, error)
                if pause is None:
                    raise
                await self.sleep(pause)
        return await attempt()

    async def run_for(self, seconds: float, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the result of the first attempt that succeeds, of as many as fit into a time; with one try, of that.

        Raises:
            ServiceError: It is not retryable, or asks for a pause that ends after the time is over.
        """
        end = self.clock() + seconds
        number = 1
        while True:
            try:
                return await attempt()
            except ServiceError as error:
                pause = self.pause_seconds(min(number, OFTEN), error)
                if pause is None or self.attempts == 1 or self.clock() + pause > end:
                    raise
            await self.sleep(pause)
            number += 1

    def pause_seconds(self, number: int, error: ServiceError) -> float | None:
        """Return how long to wait after the number-th failure; None where trying again is of no use."""
        told = error.retry_after_s or 0.0
        if not error.retryable or told > self.max_wait_seconds:
            return None
        own = self.first_wait_seconds * 2.0 ** min(number - 1, 30) * (0.5 + 0.5 * self.random())
        return min(max(told * (1 + SPREAD * self.random()), own), self.max_wait_seconds)
