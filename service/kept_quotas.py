"""The quotas of API keys, counted by the keeper for the whole service."""

from __future__ import annotations

from service.access.keys import Limits
from service.errors import QuotaExceeded
from service.keeper.client import KeeperClient
from service.keeper.topics import (
    ADMIT_REQUEST,
    CLOSE_KEY_STREAM,
    OPEN_KEY_STREAM,
    RESERVE_AUDIO,
    RETURN_AUDIO,
    AudioBack,
    AudioWanted,
    KeyRequest,
    KeyStream,
    KeyStreamOver,
    Verdict,
)


class KeptQuotas:
    """A `Quotas` that asks the keeper, and only where a key has the limit in question.

    What asks raises `Unavailable` where the supervisor does not answer: what a key has used is not known then, so nothing more
    is admitted under a limit.

    Args:
        keeper: Counts.
    """

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper

    async def admit_request(self, key: str, limits: Limits) -> None:
        """See `Quotas`."""
        if limits.requests_per_minute is not None:
            _check(await self._keeper.ask(ADMIT_REQUEST, KeyRequest(key=key, limits=limits)))

    async def open_stream(self, key: str, limits: Limits, lease: str) -> None:
        """See `Quotas`."""
        if limits.max_streams is not None:
            _check(await self._keeper.ask(OPEN_KEY_STREAM, KeyStream(key=key, limits=limits, lease=lease)))

    async def close_stream(self, key: str, lease: str) -> None:
        """See `Quotas`."""
        self._keeper.tell(CLOSE_KEY_STREAM, KeyStreamOver(key=key, lease=lease))

    async def reserve_audio(self, key: str, limits: Limits, seconds: float, minimum: float, held: float = 0.0) -> float:
        """See `Quotas`."""
        if limits.audio_seconds_per_day is None:
            return seconds
        wanted = AudioWanted(key=key, limits=limits, seconds=seconds, minimum=minimum, held=held)
        return _check(await self._keeper.ask(RESERVE_AUDIO, wanted)).seconds

    async def return_audio(self, key: str, seconds: float) -> None:
        """See `Quotas`."""
        self._keeper.tell(RETURN_AUDIO, AudioBack(key=key, seconds=seconds))


def _check(verdict: Verdict) -> Verdict:
    """Return a verdict that says yes.

    Raises:
        QuotaExceeded: It says no.
    """
    if verdict.refusal is not None:
        raise QuotaExceeded(verdict.refusal, retry_after_s=verdict.retry_after_s)
    return verdict
