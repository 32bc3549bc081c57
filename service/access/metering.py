"""Asking for quotas of sound: a block at a time."""

from __future__ import annotations

import asyncio
from typing import Final

from service.access.keys import Limits
from service.access.quotas import Quotas, check_fits

BLOCK_SECONDS: Final = 10.0
"""So much sound is set aside at once: a live stream asks every ten seconds."""
SLACK_SECONDS: Final = 0.001
"""A clip that was resampled may be a sample longer than it said."""


class AudioMeter:
    """A `service.meter.Meter` on a key's sound: it sets aside a block at a time and counts it down here. Any number of tasks
    may call it.

    Args:
        quotas: Who counts.
        key: Whose sound.
        limits: What the key is held to.
    """

    def __init__(self, quotas: Quotas, key: str, limits: Limits) -> None:
        self._quotas = quotas
        self._key = key
        self._limits = limits
        self._left = 0.0
        # One at a time: another one would set aside what this one is about to leave.
        self._turn = asyncio.Lock()

    def check_whole(self, seconds: float) -> None:
        """See `Meter`."""
        check_fits(self._limits, seconds - SLACK_SECONDS)

    async def require(self, seconds: float) -> None:
        """See `Meter`. No more than that is set aside: it may be long until it is used, and others of the same key come."""
        check_fits(self._limits, seconds)
        async with self._turn:
            await self._require(seconds, 0.0)

    async def take(self, seconds: float) -> None:
        """See `Meter`."""
        self.check_whole(seconds)
        async with self._turn:
            await self._require(seconds, BLOCK_SECONDS)
            self._left -= seconds

    async def _require(self, seconds: float, block_seconds: float) -> None:
        if (lacking := seconds - self._left) > SLACK_SECONDS:
            wanted = max(lacking, block_seconds)
            held = max(0.0, self._left)
            self._left += await self._quotas.reserve_audio(self._key, self._limits, wanted, lacking, held)

    async def aclose(self) -> None:
        """Give back what was not used."""
        left, self._left = self._left, 0.0
        if left > 0:
            await self._quotas.return_audio(self._key, left)
