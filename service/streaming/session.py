"""One live stream as a state machine without I/O, clock or await.

The law::

    CONFIGURING --(configuration complete: ready)--> STREAMING --(stop, drain, end of sound)--> FINISHING --> CLOSED
         any state --(fatal error)--> CLOSED

Whoever owns a session (`service.streaming.driver`) calls one `receive_*` or `poll` at a time, passes the clock's time, and
carries out the returned actions in order: `Send` a message, `Infer` a window and report back with `receive_scores` or
`receive_failure`, `FinishAudio` (drain the decoder into `receive_audio`, then call `receive_audio_end`), count what was
`Dropped`, and `Close`. After `Close` every call returns nothing.

The session itself says in which order things happen. It is made of parts with one business each: what is
agreed (`service.streaming.negotiation`), the sound and its answers (`service.streaming.sound`), what follows from time alone
(`service.streaming.timers`), how it ends (`service.streaming.ending`), and the actions (`service.streaming.outgoing`).

Sound is read while `is_paused` is false; `next_poll` says when the passing of time alone will matter. Positions are
samples at the model's rate; seconds appear only in messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from service.errors import BodyTooLarge, InvalidParameter, ProtocolViolation, ServiceError
from service.inference.runner import FloatArray, Int16Array, ModelSpec
from service.postprocess.event_config import EventConfig
from service.streaming.actions import Action
from service.streaming.configuration import ActiveConfiguration, AudioFormat
from service.streaming.ending import Ending
from service.streaming.messages import (
    ClientMessage,
    Flush,
    GoingAway,
    Limits,
    ServerMessage,
    Start,
    Stop,
    Update,
    parse_client_message,
)
from service.streaming.negotiation import Negotiation
from service.streaming.outgoing import Outgoing
from service.streaming.rate import MessageRate
from service.streaming.sound import StreamSound
from service.streaming.state import STATE_VERSION, Numbered, SessionState, dump_state
from service.streaming.timers import StreamTimers


class StreamSession:
    """The state of one stream.

    Args:
        session_id: Told to the client and to logs.
        models: The served models by name.
        default_model: The one that is used when the client names none.
        limits: What the stream is held to.
        events: What counts as an event where the client says nothing.
        resume_token: Told to the client, which names it to go on after a break; None where it cannot.
        admit: Is asked before a configuration holds; raises a `ServiceError` where the service cannot do what it asks for.
    """

    def __init__(
        self,
        session_id: str,
        models: Mapping[str, ModelSpec],
        default_model: str,
        limits: Limits,
        events: EventConfig,
        resume_token: str | None = None,
        admit: Callable[[ActiveConfiguration], None] = lambda _: None,
    ) -> None:
        self._limits = limits
        self._is_resumable = resume_token is not None
        self._outgoing = Outgoing(is_kept=self._is_resumable)
        self._negotiation = Negotiation(self._outgoing, session_id, models, default_model, limits, events, resume_token, admit)
        self._ending = Ending(self._outgoing)
        self._timers = StreamTimers(limits)
        self._rate = MessageRate(limits.max_messages_per_second)
        self._sound: StreamSound | None = None
        self._num_repeated = 0

    # What the owner may ask

    @property
    def spec(self) -> ModelSpec:
        """The model that scores this stream; only once configured."""
        return self._negotiation.active.spec

    @property
    def audio_format(self) -> AudioFormat:
        """How the binary frames are to be read; only once configured."""
        return self._negotiation.active.audio

    @property
    def may_wait(self) -> bool:
        """Whether the client takes late answers rather than none; only once configured."""
        return self._negotiation.active.on_lag == "wait"

    @property
    def is_configured(self) -> bool:
        """Whether sound may come."""
        return self._negotiation.is_complete

    @property
    def is_closed(self) -> bool:
        """Whether `Close` was returned."""
        return self._ending.is_closed

    @property
    def is_reading(self) -> bool:
        """Whether frames from the client still matter."""
        return self._ending.is_reading

    @property
    def is_resumable(self) -> bool:
        """Whether another connection may go on with it: `snapshot` has something to say."""
        return self._is_resumable and self._negotiation.is_complete

    @property
    def is_confirmed(self) -> bool:
        """Whether the client of a stream that goes on has shown that it knows: else it may come back as it came."""
        return self._negotiation.is_confirmed

    @property
    def has_windows(self) -> bool:
        """Whether a window is to be answered yet; none is once the stream is closed."""
        return self._sound is not None and self._sound.has_windows and not self.is_closed

    @property
    def received_seconds(self) -> float:
        """Sound received so far, decoded."""
        return self._sound.received_seconds if self._sound else 0.0

    def is_paused(self, now: float) -> bool:
        """Return whether reading must wait: too much sound is received and not scored, and the stream is ahead of real
        time (or asked never to lose any)."""
        return self.is_reading and self._timers.is_paused(self._sound, now)

    def next_poll(self, now: float) -> float | None:
        """Return the clock time at which `poll` should be called, if nothing else happens before; None for never."""
        times = self._timers.next_times(self._sound, now) if self.is_reading else []
        if self._sound and not self.is_closed and (deadline := self._sound.next_deadline()) is not None:
            times.append(deadline)
        return min(times, default=None)

    # What the owner reports

    def open(self, query: list[tuple[str, str]], now: float) -> list[Action]:
        """The connection is accepted, with this query string."""
        if self.is_closed:
            return []
        self._timers.begin(now)
        self._timers.note_activity(now)
        try:
            self._negotiation.open(query)
        except ServiceError as error:
            self._fail(error)
        return self._outgoing.take()

    def resume(self, text: str | None, now: float) -> list[Action]:
        """What was found for `Resume`: the `snapshot` of that stream, or None. It goes on, or a new stream begins."""
        if not self._negotiation.is_resuming or self.is_closed:
            return []
        self._timers.note_activity(now)
        try:
            if resumed := self._negotiation.resume(text, now):
                self._sound, self._num_repeated = resumed.sound, resumed.num_repeated
                self._timers.begin(resumed.opened_at)
                if resumed.close is not None:
                    self._ending.close(*resumed.close)
        except ServiceError as error:
            self._fail(error)
        self._advance(now)
        return self._outgoing.take()

    def snapshot(self, now: float) -> str:
        """Return the stream as JSON for `resume` of another session; every window was answered before. Nothing is to be done
        with it here any more, but it can be had again, should it not arrive."""
        active, closed_with = self._negotiation.active, self._ending.closed_with
        state = SessionState(
            version=STATE_VERSION,
            configuration=active.to_wire(),
            model_sha256=active.spec.source_sha256,
            age_seconds=self._timers.age(now),
            seq=self._outgoing.seq,
            messages=cast(list[Numbered], self._outgoing.kept),
            sound=self._sound.snapshot(now) if self._sound else None,
            close=(closed_with.code, closed_with.reason) if closed_with else None,
            missing_from=self._negotiation.missing_from,
        )
        return dump_state(state)

    def receive_text(self, text: str, now: float) -> list[Action]:
        """A text frame came."""
        if not self.is_reading:
            return []
        self._note_frame(now)
        try:
            self._rate.count(now)
            message = parse_client_message(text)
        except (InvalidParameter, ProtocolViolation) as error:
            if not self.is_configured:
                self._fail(error)
            else:
                self._outgoing.send_error(error, fatal=False)
            return self._outgoing.take()
        except ServiceError as error:
            self._fail(error)
            return self._outgoing.take()
        try:
            self._receive(message, now)
        except ServiceError as error:
            if isinstance(message, Start):
                self._fail(error)
            else:
                self._outgoing.send_error(error, fatal=False)
        self._advance(now)
        return self._outgoing.take()

    def receive_binary(self, num_bytes: int, now: float) -> list[Action]:
        """A binary frame came; its sound follows with `receive_audio` unless this ends the stream."""
        if not self.is_reading:
            return []
        self._note_frame(now)
        if self._sound is not None and num_bytes <= self._limits.max_frame_bytes:
            return []  # as nearly always: what time has brought is looked at when the sound is there
        if not self.is_configured:
            self._fail(self._negotiation.explain_missing())
        elif num_bytes > self._limits.max_frame_bytes:
            self._finish(
                BodyTooLarge(
                    f"a frame has {num_bytes} bytes, at most {self._limits.max_frame_bytes} are read "
                    "(SONOTAG_MAX_FRAME_BYTES): send smaller pieces"
                )
            )
        else:
            self._sound = StreamSound(self._negotiation.active, self._limits, now)
        self._advance(now)
        return self._outgoing.take()

    def receive_audio(self, samples: Int16Array, arrived_at: float, now: float) -> list[Action]:
        """Sound was decoded.

        Args:
            samples: int16 `[n]` at the model's rate; kept, so that they must not change.
            arrived_at: Clock time at which the frame that completed it came.
            now: Clock time.
        """
        if self.is_closed or self._sound is None:
            return []
        if self._num_repeated:  # it was sent again to warm the resampler up
            num_known = min(self._num_repeated, len(samples))
            self._num_repeated -= num_known
            samples = samples[num_known:]
        for warning in self._sound.push(samples, arrived_at):
            self._outgoing.send(warning)
        if self.is_reading and (error := self._timers.find_excess(self._sound)):
            self._finish(error)
        self._advance(now)
        return self._outgoing.take()

    def receive_audio_end(self, now: float, error: ServiceError | None = None) -> list[Action]:
        """The decoder is drained after `FinishAudio`, or it failed with an error; what is whole is scored and sent first."""
        if self.is_closed:
            return []
        self._ending.note_audio_end()
        if error is not None:
            self._finish(error)
        if self._sound:
            self._sound.add_tail(now)
        self._advance(now)
        return self._outgoing.take()

    def receive_scores(self, ticket: int, scores: FloatArray, now: float) -> list[Action]:
        """The model answered for a window: float32 `[labels]`."""
        if self._sound and not self.is_closed:
            self._sound.settle(ticket, scores, now)
            self._advance(now)
        return self._outgoing.take()

    def receive_failure(self, ticket: int, error: ServiceError, now: float) -> list[Action]:
        """The model did not answer for a window: it was too late, or the model failed. The stream goes on."""
        if self._sound and not self.is_closed:
            is_late = error.code == "deadline_exceeded"
            if not is_late:
                self._outgoing.send_error(error, fatal=False)
            self._sound.settle(ticket, None, now, "lag" if is_late else "inference_failed")
            self._advance(now)
        return self._outgoing.take()

    def poll(self, now: float) -> list[Action]:
        """Time has passed."""
        if self.is_closed:
            return []
        self._timers.note_pause(now, is_paused=self.is_paused(now))
        if self.is_reading and (error := self._timers.find_expiry(now)):
            self._finish(error)
        self._advance(now)
        return self._outgoing.take()

    def drain(self, now: float) -> list[Action]:
        """The server is going away: what was received is scored and sent, then the stream is closed with 1001."""
        if self.is_reading:
            self._outgoing.send(GoingAway())
            self._finish(close_code=1001)
            self._advance(now)
        return self._outgoing.take()

    def fail(self, error: ServiceError) -> list[Action]:
        """Something of ours broke; the stream ends at once."""
        if not self.is_closed:
            self._fail(error)
        return self._outgoing.take()

    def abandon(self) -> list[Action]:
        """The client is gone."""
        if not self.is_closed:
            self._ending.abandon(self._sound)
        return self._outgoing.take()

    # Inside

    def _note_frame(self, now: float) -> None:
        self._timers.note_activity(now)
        self._negotiation.confirm()

    def _receive(self, message: ClientMessage, now: float) -> None:
        match message:
            case Start() if self._sound:
                raise ProtocolViolation("start came after sound: send update to change what can be changed", param="type")
            case Start():
                self._negotiation.start(message)
            case Update():
                self._negotiation.update(message, self._sound)
            case Flush() if self._sound:
                self._sound.add_tail(now)
            case Stop() if self.is_configured:
                self._finish()
            case Stop():
                self._finish(ProtocolViolation("stop came before the configuration was complete"))

    def _advance(self, now: float) -> None:
        """Drop what is too late, give windows to the model, answer those whose turn it is, and end when all is said."""
        if self._sound and not self.is_closed:
            for outcome in self._sound.advance(now):
                if isinstance(outcome, ServerMessage):
                    self._outgoing.send(outcome)
                else:
                    self._outgoing.add(outcome)
            if self._sound.overload:
                self._fail(self._sound.overload)
            self._timers.note_pause(now, is_paused=self.is_paused(now))
        self._ending.conclude(self._sound)

    def _finish(self, error: ServiceError | None = None, close_code: int = 1000) -> None:
        self._ending.begin(error, close_code, has_sound=self._sound is not None)

    def _fail(self, error: ServiceError) -> None:
        self._ending.fail(error, self._sound)
