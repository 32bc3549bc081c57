"""How a stream ends, and what is said last. Pure.

The law::

    READING --(begin)--> FINISHING --(the decoder is drained, every window is answered: conclude)--> CLOSED
         any phase --(fail, abandon, close)--> CLOSED
"""

from __future__ import annotations

from enum import Enum, auto

from service.errors import ServiceError
from service.observer import DropReason
from service.streaming.actions import Close, Dropped, FinishAudio
from service.streaming.messages import Summary
from service.streaming.outgoing import Outgoing
from service.streaming.sound import StreamSound


class _Phase(Enum):
    READING = auto()
    FINISHING = auto()
    CLOSED = auto()


class Ending:
    """The end of one stream. Where a `sound` is asked for, None means that no frame of sound has come.

    Args:
        outgoing: Takes the last words.

    Attributes:
        closed_with: The close, once there is one; none where the client is gone.
        is_reading: Whether the end has not begun. Plain, like the next one: every frame of sound asks for them a dozen times.
        is_closed: Whether nothing follows.
    """

    def __init__(self, outgoing: Outgoing) -> None:
        self.closed_with: Close | None = None
        self._outgoing = outgoing
        self._enter(_Phase.READING)
        self._error: ServiceError | None = None
        self._close_code = 1000
        self._is_audio_ended = False

    def begin(self, error: ServiceError | None = None, close_code: int = 1000, *, has_sound: bool) -> None:
        """Read no more; once the rest is scored and sent, end with this error or code."""
        if self._phase is _Phase.FINISHING:
            if self._close_code == 1000:  # a drain cuts a sample through no fault of the client's
                self._error = self._error or error
            return
        self._enter(_Phase.FINISHING)
        self._error, self._close_code = error, close_code
        if not has_sound:
            self._is_audio_ended = True
        elif not self._is_audio_ended:
            self._outgoing.add(FinishAudio())

    def note_audio_end(self) -> None:
        """No more sound will be decoded."""
        self._is_audio_ended = True

    def conclude(self, sound: StreamSound | None) -> None:
        """Say the last words and close, if the end has begun and nothing is left to answer."""
        if self._phase is not _Phase.FINISHING or not self._is_audio_ended or (sound and sound.has_windows):
            return
        if sound:
            for message in sound.finish():
                self._outgoing.send(message)
        if self._error is not None:
            self.fail(self._error, sound)
        elif self._close_code == 1000:
            self._outgoing.send(_summarise(sound))
            self.close(1000, "done")
        else:
            self.close(self._close_code, "going away")

    def fail(self, error: ServiceError, sound: StreamSound | None) -> None:
        """End at once with an error."""
        self._give_up("closed", sound)
        self._outgoing.send_error(error, fatal=True)
        self.close(error.close_code, error.code)

    def abandon(self, sound: StreamSound | None) -> None:
        """End at once without a word: the client is gone."""
        self._give_up("disconnect", sound)
        self._enter(_Phase.CLOSED)

    def close(self, code: int, reason: str) -> None:
        """Close the connection; all has been said."""
        self.closed_with = Close(code, reason)
        self._outgoing.add(self.closed_with)
        self._enter(_Phase.CLOSED)

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self.is_reading, self.is_closed = phase is _Phase.READING, phase is _Phase.CLOSED

    def _give_up(self, reason: DropReason, sound: StreamSound | None) -> None:
        """Count the sound that nothing will be said of any more."""
        if sound and sound.unanswered_seconds > 0:
            self._outgoing.add(Dropped(reason, sound.unanswered_seconds))


def _summarise(sound: StreamSound | None) -> Summary:
    if sound is None:
        return Summary(duration=0.0, windows=0, dropped_seconds=0.0, events=0)
    return Summary(
        duration=sound.received_seconds,
        windows=sound.num_scored,
        dropped_seconds=sound.dropped_seconds,
        events=sound.num_events,
    )
