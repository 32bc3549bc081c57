"""What the passing of time does to a stream that is read: it is idle, it has lasted too long, its reading pauses.

Pure: the clock is the caller's. How late windows may be answered is the business of `service.streaming.sound`.
"""

from __future__ import annotations

from service.errors import StreamExpired
from service.streaming.messages import Limits
from service.streaming.sound import StreamSound


class StreamTimers:
    """When a stream began, when it was last heard of, and what follows from that.

    Where a `sound` is asked for, None means that no frame of sound has come.

    Args:
        limits: How long a stream may last, be idle, and how much sound may wait for its answer.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._opened_at = 0.0
        self._active_at = 0.0
        self._was_paused = False

    def begin(self, opened_at: float) -> None:
        """The stream began at this clock time, before now where another connection had it."""
        self._opened_at = opened_at

    def age(self, now: float) -> float:
        """Return the seconds since the stream began."""
        return now - self._opened_at

    def note_activity(self, now: float) -> None:
        """The client was heard."""
        self._active_at = now

    def note_pause(self, now: float, *, is_paused: bool) -> None:
        """While reading is paused a client cannot be heard, so that it is not idle then."""
        if is_paused or self._was_paused:
            self._active_at = now
        self._was_paused = is_paused

    def is_paused(self, sound: StreamSound | None, now: float) -> bool:
        """Return whether reading must wait: too much sound is received and not scored, and the stream is ahead of real
        time (or asked never to lose any)."""
        if sound is None or not sound.has_windows or sound.unanswered_seconds <= self._limits.max_ahead_seconds:
            return False
        return sound.may_wait or sound.is_ahead(now)

    def next_times(self, sound: StreamSound | None, now: float) -> list[float]:
        """Return the clock times at which something follows from time alone: the stream is idle or too old, a pause ends."""
        times = [self._opened_at + self._limits.max_stream_seconds]
        if not self.is_paused(sound, now):
            times.append(self._active_at + self._limits.idle_seconds)
        elif sound and not sound.may_wait:
            times.append(sound.first_arrival + sound.received_seconds)
        return times

    def find_expiry(self, now: float) -> StreamExpired | None:
        """Return why the stream ends now, or None."""
        if self.age(now) >= self._limits.max_stream_seconds:
            return self._too_long()
        if now - self._active_at >= self._limits.idle_seconds:
            return StreamExpired(
                f"nothing came for {self._limits.idle_seconds:g} s (SONOTAG_IDLE_SECONDS): send keep_alive in pauses"
            )
        return None

    def find_excess(self, sound: StreamSound) -> StreamExpired | None:
        """Return why a stream with this much sound ends, or None: faster than real time it does not last longer."""
        return self._too_long() if sound.received_seconds > self._limits.max_stream_seconds else None

    def _too_long(self) -> StreamExpired:
        limit = self._limits.max_stream_seconds
        return StreamExpired(f"the stream has reached {limit:g} s (SONOTAG_MAX_STREAM_SECONDS): open another one")
