"""One live stream as a state machine without I/O, clock or await.

The law::

    CONFIGURING --(configuration complete: ready)--> STREAMING --(stop, drain, end of sound)--> FINISHING --> CLOSED
         any state --(fatal error)--> CLOSED

Whoever owns a session (`service.streaming.driver`) calls one `receive_*` or `poll` at a time, passes the clock's time, and
carries out the returned actions in order: `Send` a message, `Infer` a window and report back with `receive_scores` or
`receive_failure`, `FinishAudio` (drain the decoder into `receive_audio`, then call `receive_audio_end`), count what was
`Dropped`, and `Close`. After `Close` every call returns nothing.

Sound is read while `is_paused` is false; `next_poll` says when the passing of time alone will matter. Positions are
samples at the model's rate; seconds appear only in messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final, cast

from service.errors import (
    BodyTooLarge,
    InvalidParameter,
    ProtocolViolation,
    ServiceError,
    StreamExpired,
)
from service.inference.runner import FloatArray, Int16Array, ModelSpec
from service.observer import DropReason
from service.postprocess.event_config import EventConfig
from service.streaming.actions import Action, Close, Dropped, FinishAudio, Resume, Send
from service.streaming.configuration import ActiveConfiguration, AudioFormat, find_missing, merge_start, resolve_start
from service.streaming.messages import (
    Configured,
    ErrorMessage,
    Flush,
    GoingAway,
    Limits,
    ModelRef,
    Ready,
    ServerMessage,
    Start,
    Stop,
    Summary,
    Update,
    parse_client_message,
    parse_query,
)
from service.streaming.rate import MessageRate
from service.streaming.sound import StreamSound
from service.streaming.state import STATE_VERSION, MessageLog, Numbered, SessionState, dump_state, load_state

WARM_UP_SECONDS: Final = 0.5
"""Of sound that a resampler gets again before the first sample that counts: its filter's length many times over."""
MAX_GAP_SECONDS: Final = 120.0
"""A stream is held for less: a client that lacks more of it has lost its count."""


class _State(Enum):
    CONFIGURING = auto()
    STREAMING = auto()
    FINISHING = auto()
    CLOSED = auto()


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
        self._admit = admit
        self._session_id = session_id
        self._models = models
        self._default_model = default_model
        self._limits = limits
        self._rate = MessageRate(limits.max_messages_per_second)
        self._event_defaults = events
        self._state = _State.CONFIGURING
        self._given = Start()
        self._active: ActiveConfiguration | None = None
        self._actions: list[Action] = []
        self._seq: int | None = None
        self._opened_at = 0.0
        self._active_at = 0.0
        self._was_paused = False
        self._sound: StreamSound | None = None
        self._end_error: ServiceError | None = None
        self._close_code = 1000
        self._is_audio_ended = False
        self._resume_token = resume_token
        self._is_resuming = False
        self._log = MessageLog()
        self._num_repeated = 0
        self._closed_with: Close | None = None

    # What the owner may ask

    @property
    def spec(self) -> ModelSpec:
        """The model that scores this stream; only once configured."""
        return self._configuration.spec

    @property
    def audio_format(self) -> AudioFormat:
        """How the binary frames are to be read; only once configured."""
        return self._configuration.audio

    @property
    def may_wait(self) -> bool:
        """Whether the client takes late answers rather than none; only once configured."""
        return self._configuration.on_lag == "wait"

    @property
    def is_configured(self) -> bool:
        """Whether sound may come."""
        return self._active is not None

    @property
    def is_closed(self) -> bool:
        """Whether `Close` was returned."""
        return self._state is _State.CLOSED

    @property
    def is_reading(self) -> bool:
        """Whether frames from the client still matter."""
        return self._state in (_State.CONFIGURING, _State.STREAMING)

    @property
    def is_resumable(self) -> bool:
        """Whether another connection may go on with it: `snapshot` has something to say."""
        return self._resume_token is not None and self._active is not None

    @property
    def has_windows(self) -> bool:
        """Whether a window is not answered yet."""
        return self._sound is not None and self._sound.has_windows

    @property
    def received_seconds(self) -> float:
        """Sound received so far, decoded."""
        return self._sound.received_seconds if self._sound else 0.0

    def is_paused(self, now: float) -> bool:
        """Return whether reading must wait: too much sound is received and not scored, and the stream is ahead of real
        time (or asked never to lose any)."""
        sound = self._sound
        if self._state is not _State.STREAMING or sound is None or not sound.has_windows:
            return False
        if sound.unanswered_seconds <= self._limits.max_ahead_seconds:
            return False
        return self._configuration.on_lag == "wait" or sound.is_ahead(now)

    def next_poll(self, now: float) -> float | None:
        """Return the clock time at which `poll` should be called, if nothing else happens before; None for never."""
        times: list[float] = []
        if self.is_reading:
            times.append(self._opened_at + self._limits.max_stream_seconds)
            if not self.is_paused(now):
                times.append(self._active_at + self._limits.idle_seconds)
            elif self._sound and self._configuration.on_lag != "wait":
                times.append(self._sound.first_arrival + self.received_seconds)
        if self._sound and self._state is not _State.CLOSED and (deadline := self._sound.next_deadline()) is not None:
            times.append(deadline)
        return min(times, default=None)

    # What the owner reports

    def open(self, query: list[tuple[str, str]], now: float) -> list[Action]:
        """The connection is accepted, with this query string."""
        if self._state is _State.CLOSED:
            return []
        self._opened_at = self._active_at = now
        try:
            self._given = parse_query(query)
            if self._given.resume_token is not None:
                self._ask_resume(self._given.resume_token)
            elif find_missing(self._given) is None:
                self._begin()
        except ServiceError as error:
            self._fail(error)
        return self._take()

    def resume(self, text: str | None, now: float) -> list[Action]:
        """What was found for `Resume`: the `snapshot` of that stream, or None. It goes on, or a new stream begins."""
        if not self._is_resuming or self._state is _State.CLOSED:
            return []
        self._is_resuming = False
        self._active_at = now
        try:
            state = None if text is None else load_state(text)
            if state is None or not self._restore(state, now):
                self._given = self._given.model_copy(update={"resume_token": None, "last_seq": None, "resume_from": None})
                if find_missing(self._given) is None:
                    self._begin()
                self._answer_resume()
        except ServiceError as error:
            self._fail(error)
        self._advance(now)
        return self._take()

    def snapshot(self, now: float) -> str:
        """Return the stream as JSON for `resume` of another session. It is over here; every window was answered before."""
        active = self._configuration
        state = SessionState(
            version=STATE_VERSION,
            configuration=active.to_wire(),
            model_sha256=active.spec.source_sha256,
            age_seconds=now - self._opened_at,
            seq=self._seq or 0,
            messages=cast(list[Numbered], self._log.tail()),
            sound=self._sound.snapshot(now) if self._sound else None,
            close=(self._closed_with.code, self._closed_with.reason) if self._closed_with else None,
        )
        self._state = _State.CLOSED
        return dump_state(state)

    def receive_text(self, text: str, now: float) -> list[Action]:
        """A text frame came."""
        if not self.is_reading:
            return []
        self._active_at = now
        try:
            self._rate.count(now)
            message = parse_client_message(text)
        except (InvalidParameter, ProtocolViolation) as error:
            if self._active is None:
                self._fail(error)
            else:
                self._send_error(error, fatal=False)
            return self._take()
        except ServiceError as error:
            self._fail(error)
            return self._take()
        try:
            match message:
                case Start():
                    self._receive_start(message)
                case Update():
                    self._receive_update(message)
                case Flush() if self._sound:
                    self._sound.add_tail(now)
                case Stop():
                    self._finish(None, 1000)
        except ServiceError as error:
            if isinstance(message, Start):
                self._fail(error)
            else:
                self._send_error(error, fatal=False)
        self._advance(now)
        return self._take()

    def receive_binary(self, num_bytes: int, now: float) -> list[Action]:
        """A binary frame came; its sound follows with `receive_audio` unless this ends the stream."""
        if not self.is_reading:
            return []
        self._active_at = now
        if self._active is None:
            missing = find_missing(self._given)
            self._fail(
                ProtocolViolation(
                    f"sound came before the configuration was complete: {missing.message if missing else 'send start first'}",
                    param=missing.param if missing else None,
                )
            )
        elif num_bytes > self._limits.max_frame_bytes:
            self._finish(
                BodyTooLarge(
                    f"a frame has {num_bytes} bytes, at most {self._limits.max_frame_bytes} are read "
                    "(SONOTAG_MAX_FRAME_BYTES): send smaller pieces"
                )
            )
        elif self._sound is None:
            self._sound = StreamSound(self._active, self._limits, now)
        self._advance(now)
        return self._take()

    def receive_audio(self, samples: Int16Array, arrived_at: float, now: float) -> list[Action]:
        """Sound was decoded.

        Args:
            samples: int16 `[n]` at the model's rate; copied.
            arrived_at: Clock time at which the frame that completed it came.
            now: Clock time.
        """
        if self._state is _State.CLOSED or self._sound is None:
            return []
        if self._num_repeated:  # it was sent again to warm the resampler up
            num_known = min(self._num_repeated, len(samples))
            self._num_repeated -= num_known
            samples = samples[num_known:]
        for warning in self._sound.push(samples, arrived_at):
            self._send(warning)
        if self.is_reading and self.received_seconds > self._limits.max_stream_seconds:
            self._expire()
        self._advance(now)
        return self._take()

    def receive_audio_end(self, now: float, error: ServiceError | None = None) -> list[Action]:
        """The decoder is drained after `FinishAudio`, or it failed with an error; what is whole is scored and sent first."""
        if self._state is _State.CLOSED:
            return []
        self._is_audio_ended = True
        if error is not None:
            self._finish(error)
        if self._sound:
            self._sound.add_tail(now)
        self._advance(now)
        return self._take()

    def receive_scores(self, ticket: int, scores: FloatArray, now: float) -> list[Action]:
        """The model answered for a window: float32 `[labels]`."""
        if self._sound and self._state is not _State.CLOSED:
            self._sound.settle(ticket, scores, now)
            self._advance(now)
        return self._take()

    def receive_failure(self, ticket: int, error: ServiceError, now: float) -> list[Action]:
        """The model did not answer for a window: it was too late, or the model failed. The stream goes on."""
        if self._sound and self._state is not _State.CLOSED:
            is_late = error.code == "deadline_exceeded"
            if not is_late:
                self._send_error(error, fatal=False)
            self._sound.settle(ticket, None, now, "lag" if is_late else "inference_failed")
            self._advance(now)
        return self._take()

    def poll(self, now: float) -> list[Action]:
        """Time has passed."""
        if self._state is _State.CLOSED:
            return []
        self._note_pause(now)
        if self.is_reading:
            if now - self._opened_at >= self._limits.max_stream_seconds:
                self._expire()
            elif now - self._active_at >= self._limits.idle_seconds:
                self._finish(
                    StreamExpired(
                        f"nothing came for {self._limits.idle_seconds:g} s (SONOTAG_IDLE_SECONDS): send keep_alive in pauses"
                    )
                )
        self._advance(now)
        return self._take()

    def drain(self, now: float) -> list[Action]:
        """The server is going away: what was received is scored and sent, then the stream is closed with 1001."""
        if self.is_reading:
            self._send(GoingAway())
            self._finish(None, 1001)
            self._advance(now)
        return self._take()

    def fail(self, error: ServiceError) -> list[Action]:
        """Something of ours broke; the stream ends at once."""
        if self._state is not _State.CLOSED:
            self._fail(error)
        return self._take()

    def abandon(self) -> list[Action]:
        """The client is gone."""
        if self._state is not _State.CLOSED:
            self._give_up("disconnect")
        self._state = _State.CLOSED
        return self._take()

    # Inside

    @property
    def _configuration(self) -> ActiveConfiguration:
        if self._active is None:
            raise ValueError("the stream is not configured yet")
        return self._active

    def _take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def _send(self, message: ServerMessage) -> None:
        if self._seq is not None:
            self._seq += 1
            message = message.model_copy(update={"seq": self._seq})
            if self._resume_token is not None:
                self._log.add(message)
        self._actions.append(Send(message))

    def _send_error(self, error: ServiceError, *, fatal: bool) -> None:
        self._send(
            ErrorMessage(
                code=error.code,
                message=error.message,
                param=error.param,
                retryable=error.retryable,
                retry_after_s=error.retry_after_s,
                fatal=fatal,
            )
        )

    def _begin(self) -> None:
        """The configuration is complete: say so."""
        active = resolve_start(self._given, self._models, self._default_model, self._event_defaults)
        self._admit(active)
        self._active, self._state = active, _State.STREAMING
        self._send(self._ready(active))
        self._seq = 0

    def _ready(self, active: ActiveConfiguration) -> Ready:
        return Ready(
            session_id=self._session_id,
            model=ModelRef(name=active.spec.name, sha256=active.spec.source_sha256),
            limits=self._limits,
            configuration=active.to_wire(),
            resume_token=self._resume_token,
        )

    def _ask_resume(self, token: str) -> None:
        self._is_resuming = True
        self._actions.append(Resume(token))

    def _answer_resume(self) -> None:
        self._send(
            ErrorMessage(
                code="resume_unknown",
                message="this resume_token is not known, or what came after last_seq is not kept: a new stream begins",
                param="resume_token",
                retryable=False,
                fatal=False,
            )
        )

    def _restore(self, state: SessionState, now: float) -> bool:
        """Go on with a stream, if that is possible: say from where sound is wanted, send what the client has not received."""
        spec = self._models.get(state.configuration.model)
        log = MessageLog(state.messages)
        unsent = log.after(self._given.last_seq or 0, state.seq)
        if spec is None or spec.source_sha256 != state.model_sha256 or unsent is None:
            return False
        given = Start.model_validate(state.configuration.model_dump(mode="json"))
        active = resolve_start(given, self._models, self._default_model, self._event_defaults)
        sound: StreamSound | None = None
        if state.sound is not None:
            sound = StreamSound(active, self._limits, now - state.sound.age_seconds)
            try:
                sound.restore(state.sound)
            except ValueError:
                return False
        received = sound.received_seconds if sound else 0.0
        wanted_from = self._given.resume_from or 0.0
        if wanted_from - received > MAX_GAP_SECONDS:
            return False
        self._admit(active)
        self._given, self._active, self._sound, self._log = given, active, sound, log
        self._opened_at, self._state = now - state.age_seconds, _State.STREAMING
        resumed_at = self._place(wanted_from, now)
        missing = ((received, resumed_at),) if resumed_at > received else ()
        self._send(self._ready(active).model_copy(update={"resumed_at": resumed_at, "missing": missing}))
        self._actions += [Send(message) for message in unsent]
        self._seq = state.seq
        if state.close is not None:
            self._close(*state.close)
        return True

    def _place(self, wanted_from: float, now: float) -> float:
        """Return the second from which sound is wanted again, given the earliest that the client has; skip what it lacks."""
        sound, rate = self._sound, self._configuration.spec.sample_rate
        received = sound.received_samples if sound else 0
        position = round(wanted_from * rate)
        if position > received:
            if sound is None:
                sound = self._sound = StreamSound(self._configuration, self._limits, now - wanted_from)
            sound.skip(position, now)
            return position / rate
        raw = self._configuration.audio.raw
        if raw is None or raw.sample_rate == rate:
            return received / rate
        # Samples of both rates coincide at whole seconds.
        position = max(position, rate * math.floor(max(0.0, received / rate - WARM_UP_SECONDS)))
        self._num_repeated = received - position
        return position / rate

    def _receive_start(self, start: Start) -> None:
        if self._sound is not None:
            raise ProtocolViolation("start came after sound: send update to change what can be changed", param="type")
        given = merge_start(self._given, start)
        if self._active is None:
            self._given = given
            if start.resume_token is not None:
                self._ask_resume(start.resume_token)
            else:
                self._begin()
            return
        if start.model not in (None, self._active.spec.name):
            raise ProtocolViolation(
                f"model is {start.model!r}, but ready has named {self._active.spec.name!r}: name the model in the query",
                param="model",
            )
        self._given = given
        active = resolve_start(self._given, self._models, self._default_model, self._event_defaults)
        self._admit(active)
        self._active = active
        self._send(Configured(from_=0.0, configuration=self._active.to_wire()))
        if start.resume_token is not None:
            self._answer_resume()

    def _receive_update(self, update: Update) -> None:
        if self._active is None:
            raise ProtocolViolation("update came before the configuration was complete: send start first", param="type")
        active = self._active.updated(update, self._event_defaults)
        self._admit(active)
        self._active = active
        start = self._sound.configure(active) if self._sound else 0.0
        self._send(Configured(from_=start, configuration=active.to_wire()))

    def _note_pause(self, now: float) -> None:
        """While reading is paused a client cannot be heard, so that it is not idle then."""
        is_paused = self.is_paused(now)
        if is_paused or self._was_paused:
            self._active_at = now
        self._was_paused = is_paused

    def _advance(self, now: float) -> None:
        """Drop what is too late, give windows to the model, answer those whose turn it is, and end when all is said."""
        sound = self._sound
        if sound and self._state is not _State.CLOSED:
            for outcome in sound.advance(now):
                if isinstance(outcome, ServerMessage):
                    self._send(outcome)
                else:
                    self._actions.append(outcome)
            if sound.overload:
                self._fail(sound.overload)
            self._note_pause(now)
        if self._state is _State.FINISHING and self._is_audio_ended and not (sound and sound.has_windows):
            self._end()

    def _expire(self) -> None:
        limit = self._limits.max_stream_seconds
        self._finish(StreamExpired(f"the stream has reached {limit:g} s (SONOTAG_MAX_STREAM_SECONDS): open another one"))

    def _finish(self, error: ServiceError | None, close_code: int = 1000) -> None:
        """Read no more; once the rest is scored and sent, end with this error or code."""
        if self._state is _State.FINISHING:
            if self._close_code == 1000:  # a drain cuts a sample through no fault of the client's
                self._end_error = self._end_error or error
            return
        self._state, self._end_error, self._close_code = _State.FINISHING, error, close_code
        if self._sound and not self._is_audio_ended:
            self._actions.append(FinishAudio())
        elif not self._sound:
            self._is_audio_ended = True
            if self._active is None and error is None and close_code == 1000:
                self._end_error = ProtocolViolation("stop came before the configuration was complete")

    def _end(self) -> None:
        if self._sound:
            for message in self._sound.finish():
                self._send(message)
        if self._end_error is not None:
            self._fail(self._end_error)
            return
        if self._close_code == 1000:
            self._send(
                Summary(
                    duration=self.received_seconds,
                    windows=self._sound.num_scored if self._sound else 0,
                    dropped_seconds=self._sound.dropped_seconds if self._sound else 0.0,
                    events=self._sound.num_events if self._sound else 0,
                )
            )
        self._close(self._close_code, "done" if self._close_code == 1000 else "going away")

    def _give_up(self, reason: DropReason) -> None:
        """Count the sound that nothing will be said of any more."""
        if self._sound and self._sound.unanswered_seconds > 0:
            self._actions.append(Dropped(reason, self._sound.unanswered_seconds))

    def _fail(self, error: ServiceError) -> None:
        self._give_up("closed")
        self._send_error(error, fatal=True)
        self._close(error.close_code, error.code)

    def _close(self, code: int, reason: str) -> None:
        self._closed_with = Close(code, reason)
        self._actions.append(self._closed_with)
        self._state = _State.CLOSED
