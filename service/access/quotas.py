"""What each API key has used, and may use: streams at once, requests a minute, seconds of sound a day.

`QuotaLedger` is the law, without clock or I/O. `Quotas` is what the rest asks, in so few calls that another process can
answer them: once for a request or stream, and once for each block of sound (`service.access.metering`).

A minute is any 60 s and a day any 24 h, counted by a clock that only rises: nothing is free at midnight, and setting the
time gives nothing away. Requests are counted exactly, sound in blocks of an hour of its arrival.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

from service.access.keys import Limits
from service.errors import ClipTooLong, QuotaExceeded

MINUTE_SECONDS: Final = 60.0
HOUR_SECONDS: Final = 3600.0
HOURS: Final = 24
STREAM_RETRY_SECONDS: Final = 5.0
"""A guess: nobody knows when a stream of the same key will end."""


class Quotas(Protocol):
    """Counts for the whole service. `key` is a key's ID, `lease` names one stream."""

    async def admit_request(self, key: str, limits: Limits) -> None:
        """Count a request.

        Raises:
            QuotaExceeded: There were as many as may be in the last minute.
        """
        ...

    async def open_stream(self, key: str, limits: Limits, lease: str) -> None:
        """Count a stream that is open from now on.

        Raises:
            QuotaExceeded: As many as may be are open.
        """
        ...

    async def close_stream(self, key: str, lease: str) -> None:
        """A stream is over; one that is not known does not matter."""
        ...

    async def reserve_audio(self, key: str, limits: Limits, seconds: float, minimum: float, held: float = 0.0) -> float:
        """Set sound aside.

        Args:
            key: Whose.
            limits: What it is held to.
            seconds: How much is wanted, seconds.
            minimum: How much is of use; with what is held at most what the key may send in a day, see `check_fits`.
            held: How much whoever asks has set aside and not used yet; it is still theirs.

        Returns:
            How much was set aside: at most what is wanted, at least the minimum.

        Raises:
            QuotaExceeded: There is not that much left.
        """
        ...

    async def return_audio(self, key: str, seconds: float) -> None:
        """Give back what was set aside and not used."""
        ...


@dataclass(slots=True)
class _Usage:
    requests: deque[float] = field(default_factory=deque)
    streams: set[tuple[int, str]] = field(default_factory=set)
    audio: dict[int, float] = field(default_factory=dict)


class QuotaLedger:
    """What was used, by key. Times are seconds of one clock that only rises."""

    def __init__(self) -> None:
        self._usages: dict[str, _Usage] = {}

    def admit_request(self, key: str, limits: Limits, now: float) -> None:
        """See `Quotas`."""
        limit = limits.requests_per_minute
        if limit is None:
            return
        requests = self._usage(key).requests
        while requests and requests[0] <= now - MINUTE_SECONDS:
            requests.popleft()
        if len(requests) >= limit:
            raise QuotaExceeded(
                f"this API key has made {len(requests)} of at most {limit} requests in the last minute",
                retry_after_s=_up(requests[len(requests) - limit] + MINUTE_SECONDS - now),
            )
        requests.append(now)

    def open_stream(self, key: str, limits: Limits, worker: int, lease: str) -> None:
        """See `Quotas`. `worker` says which process has the stream."""
        streams = self._usage(key).streams
        limit = limits.max_streams
        if limit is not None and len(streams) >= limit:
            raise QuotaExceeded(
                f"this API key has {len(streams)} of at most {limit} streams open", retry_after_s=STREAM_RETRY_SECONDS
            )
        streams.add((worker, lease))

    def close_stream(self, key: str, worker: int, lease: str) -> None:
        """See `Quotas`."""
        self._usage(key).streams.discard((worker, lease))

    def forget(self, worker: int) -> None:
        """A worker is dead, and its streams with it. What it had set aside of sound stays counted: some of it was used."""
        for usage in self._usages.values():
            usage.streams = {(owner, lease) for owner, lease in usage.streams if owner != worker}

    def reserve_audio(self, key: str, limits: Limits, seconds: float, minimum: float, now: float, held: float = 0.0) -> float:
        """See `Quotas`."""
        limit = limits.audio_seconds_per_day
        if limit is None:
            return seconds
        hour = math.floor(now / HOUR_SECONDS)
        audio = self._usage(key).audio
        for old in [then for then in audio if then <= hour - HOURS]:
            del audio[old]
        left = limit - sum(audio.values())
        if left < minimum or left <= 0:
            raise QuotaExceeded(
                f"this API key has {max(0.0, left + held):.1f} s of sound left of {limit:g} s in 24 hours, "
                f"{minimum + held:.1f} s are needed",
                retry_after_s=self._until(audio, left, minimum, now),
            )
        granted = min(seconds, left)
        audio[hour] = audio.get(hour, 0.0) + granted
        return granted

    def return_audio(self, key: str, seconds: float) -> None:
        """See `Quotas`."""
        audio = self._usage(key).audio
        for hour in sorted(audio, reverse=True):
            back = min(seconds, audio[hour])
            audio[hour] -= back
            seconds -= back

    def _usage(self, key: str) -> _Usage:
        return self._usages.setdefault(key, _Usage())

    @staticmethod
    def _until(audio: dict[int, float], left: float, minimum: float, now: float) -> float:
        """Return in how many seconds enough will have fallen out of the 24 hours."""
        last = math.floor(now / HOUR_SECONDS)
        for hour in sorted(audio):
            left += audio[hour]
            if left >= minimum:
                last = hour
                break
        return _up((last + HOURS) * HOUR_SECONDS - now)


def check_fits(limits: Limits, seconds: float) -> None:
    """Refuse sound that a key can never send at once.

    Args:
        limits: What the key is held to.
        seconds: How long the sound is, or how much of it is known.

    Raises:
        ClipTooLong: It is longer than what the key may send in a whole day.
    """
    limit = limits.audio_seconds_per_day
    if limit is not None and seconds > limit:
        raise ClipTooLong(
            f"{seconds:.1f} s of sound are needed at once, this API key may send {limit:g} s in 24 hours: that is never enough"
        )


def _up(seconds: float) -> float:
    """Round up to a tenth, so that whoever waits exactly so long is not early."""
    return math.ceil(max(0.0, seconds) * 10) / 10
