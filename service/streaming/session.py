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

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from service.audio.windowing import SlidingWindower, Span
from service.errors import (
    BodyTooLarge,
    InvalidParameter,
    Overloaded,
    ProtocolViolation,
    ServiceError,
    StreamExpired,
)
from service.inference.runner import FloatArray, Int16Array, ModelSpec
from service.postprocess.event_config import EventConfig
from service.postprocess.events import EventChange, EventDetector
from service.postprocess.scores import SCORE_DIGITS
from service.streaming.actions import Action, Close, Dropped, FinishAudio, Infer, Send
from service.streaming.configuration import ActiveConfiguration, AudioFormat, is_complete, merge_start, resolve_start
from service.streaming.ledger import WindowEntry, WindowLedger, WindowState
from service.streaming.messages import (
    Configured,
    ErrorMessage,
    EventMessage,
    Flush,
    GoingAway,
    Limits,
    ModelRef,
    Ready,
    ServerMessage,
    Start,
    Stop,
    Summary,
    TagItem,
    Tags,
    Update,
    Warn,
    parse_client_message,
    parse_query,
)
from service.streaming.monitor import SignalMonitor


class _State(Enum):
    CONFIGURING = auto()
    STREAMING = auto()
    FINISHING = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class _Sound:
    """What exists from the first frame of sound on."""

    first_arrival: float
    windower: SlidingWindower
    ledger: WindowLedger
    monitor: SignalMonitor
    detector: EventDetector


class StreamSession:
    """The state of one stream.

    Args:
        session_id: Told to the client and to logs.
        models: The served models by name.
        default_model: The one that is used when the client names none.
        limits: What the stream is held to.
        events: What counts as an event where the client says nothing.
    """

    def __init__(
        self, session_id: str, models: Mapping[str, ModelSpec], default_model: str, limits: Limits, events: EventConfig
    ) -> None:
        self._session_id = session_id
        self._models = models
        self._default_model = default_model
        self._limits = limits
        self._event_defaults = events
        self._state = _State.CONFIGURING
        self._given = Start()
        self._active: ActiveConfiguration | None = None
        self._actions: list[Action] = []
        self._seq: int | None = None
        self._opened_at = 0.0
        self._active_at = 0.0
        self._was_paused = False
        self._sound: _Sound | None = None
        self._end_error: ServiceError | None = None
        self._close_code = 1000
        self._is_audio_ended = False
        self._num_scored = 0
        self._answered_end = 0
        self._dropped_samples = 0

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
    def received_seconds(self) -> float:
        """Sound received so far, decoded."""
        return self._seconds(self._sound.windower.received_samples) if self._sound else 0.0

    def is_paused(self, now: float) -> bool:
        """Return whether reading must wait: too much sound is received and not scored, and the stream is ahead of real
        time (or asked never to lose any)."""
        if self._state is not _State.STREAMING or self._sound is None or not len(self._sound.ledger):
            return False
        unscored = self.received_seconds - self._seconds(self._answered_end)
        if unscored <= self._limits.max_ahead_seconds:
            return False
        return self._configuration.on_lag == "wait" or self.received_seconds > now - self._sound.first_arrival

    def next_poll(self, now: float) -> float | None:
        """Return the clock time at which `poll` should be called, if nothing else happens before; None for never."""
        times: list[float] = []
        if self.is_reading:
            times.append(self._opened_at + self._limits.max_stream_seconds)
            if not self.is_paused(now):
                times.append(self._active_at + self._limits.idle_seconds)
            elif self._sound and self._configuration.on_lag != "wait":
                times.append(self._sound.first_arrival + self.received_seconds)
        if self._sound and self._state is not _State.CLOSED and (deadline := self._sound.ledger.next_deadline()) is not None:
            times.append(deadline)
        return min(times, default=None)

    # What the owner reports

    def open(self, query: list[tuple[str, str]], now: float) -> list[Action]:
        """The connection is accepted, with this query string."""
        self._opened_at = self._active_at = now
        try:
            self._given = parse_query(query)
            if is_complete(self._given):
                self._begin()
        except ServiceError as error:
            self._fail(error)
        return self._take()

    def receive_text(self, text: str, now: float) -> list[Action]:
        """A text frame came."""
        if not self.is_reading:
            return []
        self._active_at = now
        try:
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
                    self._receive_update(message, now)
                case Flush():
                    self._add_tail(now)
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
            self._fail(ProtocolViolation("sound came before the configuration was complete: send start first"))
        elif num_bytes > self._limits.max_frame_bytes:
            self._finish(
                BodyTooLarge(
                    f"a frame has {num_bytes} bytes, at most {self._limits.max_frame_bytes} are read "
                    "(SONOTAG_MAX_FRAME_BYTES): send smaller pieces"
                )
            )
        elif self._sound is None:
            self._sound = self._make_sound(now)
        self._advance(now)
        return self._take()

    def receive_audio(self, samples: Int16Array, arrived_at: float, now: float) -> list[Action]:
        """Sound was decoded.

        Args:
            samples: int16 `[n]` at the model's rate; copied.
            arrived_at: Clock time at which the frame that completed it came.
            now: Clock time.
        """
        sound = self._sound
        if self._state is _State.CLOSED or sound is None:
            return []
        for span in sound.windower.push(samples):
            self._add_window(sound, span, arrived_at)
        findings = sound.monitor.push(samples)
        if (raw := self._configuration.audio.raw) and self.is_reading:
            findings += sound.monitor.check_rate(raw.sample_rate, self.received_seconds, arrived_at - sound.first_arrival)
        for finding in findings:
            self._send(Warn(code=finding.code, message=finding.message))
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
        self._add_tail(now)
        self._advance(now)
        return self._take()

    def receive_scores(self, ticket: int, scores: FloatArray, now: float) -> list[Action]:
        """The model answered for a window: float32 `[labels]`."""
        if self._sound and self._state is not _State.CLOSED:
            self._sound.ledger.settle(ticket, scores, now)
            self._advance(now)
        return self._take()

    def receive_failure(self, ticket: int, error: ServiceError, now: float) -> list[Action]:
        """The model did not answer for a window: it was too late, or the model failed. The stream goes on."""
        if self._sound and self._state is not _State.CLOSED:
            is_late = error.code == "deadline_exceeded"
            if not is_late:
                self._send_error(error, fatal=False)
            self._sound.ledger.settle(ticket, None, now, "lag" if is_late else "inference_failed")
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
        if self._state is not _State.CLOSED and self._sound:
            unscored = self.received_seconds - self._seconds(self._answered_end)
            if unscored > 0:
                self._actions.append(Dropped("disconnect", unscored))
        self._state = _State.CLOSED
        return self._take()

    # Inside

    @property
    def _configuration(self) -> ActiveConfiguration:
        if self._active is None:
            raise ValueError("the stream is not configured yet")
        return self._active

    def _seconds(self, samples: int) -> float:
        return samples / self.spec.sample_rate

    def _take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def _send(self, message: ServerMessage) -> None:
        if self._seq is not None:
            self._seq += 1
            message = message.model_copy(update={"seq": self._seq})
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
        self._active, self._state = active, _State.STREAMING
        self._send(
            Ready(
                session_id=self._session_id,
                model=ModelRef(name=active.spec.name, sha256=active.spec.source_sha256),
                limits=self._limits,
                configuration=active.to_wire(),
            )
        )
        self._seq = 0
        self._answer_resume()

    def _answer_resume(self) -> None:
        if self._given.resume_token is not None:
            self._send(
                ErrorMessage(
                    code="resume_unknown",
                    message="this resume_token is not known here: the stream starts anew",
                    param="resume_token",
                    retryable=False,
                    fatal=False,
                )
            )

    def _make_sound(self, now: float) -> _Sound:
        active = self._configuration
        window, rate = active.grid.window_samples, active.spec.sample_rate
        return _Sound(
            first_arrival=now,
            windower=SlidingWindower(window, active.grid.hop_samples, active.spec.min_samples),
            ledger=WindowLedger(None if active.on_lag == "wait" else self._limits.max_lag_seconds),
            monitor=SignalMonitor(rate),
            detector=EventDetector(window, active.thresholds),
        )

    def _receive_start(self, start: Start) -> None:
        if self._sound is not None:
            raise ProtocolViolation("start came after sound: send update to change what can be changed", param="type")
        self._given = merge_start(self._given, start)
        if self._active is None:
            self._begin()
            return
        self._active = resolve_start(self._given, self._models, self._default_model, self._event_defaults)
        self._send(Configured(from_=0.0, configuration=self._active.to_wire()))
        if start.resume_token is not None:
            self._answer_resume()

    def _receive_update(self, update: Update, now: float) -> None:
        if self._active is None:
            raise ProtocolViolation("update came before the configuration was complete: send start first", param="type")
        active = self._active = self._active.updated(update, self._event_defaults)
        position = 0
        if self._sound:
            position = self._sound.windower.received_samples
            self._sound.windower.set_hop(active.grid.hop_samples)
            self._sound.detector.configure(active.thresholds, position)
        self._send(Configured(from_=self._seconds(position), configuration=active.to_wire()))

    def _add_window(self, sound: _Sound, span: Span, arrived_at: float) -> None:
        reference = max(arrived_at, sound.first_arrival + self._seconds(span.end))
        sound.ledger.add(span, reference, self._configuration.selector)

    def _add_tail(self, now: float) -> None:
        """Add the window that ends at the last sample received, if there is anything new in it."""
        if self._sound and (span := self._sound.windower.flush()):
            self._add_window(self._sound, span, now)

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
            sound.ledger.expire(now)
            for entry in sound.ledger.issue():
                waveform = sound.windower.read(entry.span)
                self._actions.append(Infer(entry.ticket, waveform, sound.ledger.deadline(entry)))
            self._answer(sound.ledger.pop_settled(), now)
            oldest = sound.ledger.oldest
            sound.windower.release(oldest.span.start if oldest else sound.windower.received_samples)
            self._note_pause(now)
        if self._state is _State.FINISHING and self._is_audio_ended and not (sound and len(sound.ledger)):
            self._end()

    def _answer(self, entries: list[WindowEntry], now: float) -> None:
        late: list[WindowEntry] = []
        for entry in entries:
            if self.is_closed:
                return
            if entry.state is WindowState.DROPPED:
                new_sound = entry.span.end - entry.previous_end
                self._dropped_samples += new_sound
                self._answered_end = entry.span.end
                self._actions.append(Dropped(entry.drop_reason, self._seconds(new_sound)))
                if entry.drop_reason == "lag":
                    late.append(entry)
                continue
            self._announce(late)
            self._send_result(entry, now)
        self._announce(late)

    def _announce(self, late: list[WindowEntry]) -> None:
        """Tell of consecutive windows that were dropped, and forget them."""
        if not late:
            return
        start, end = self._seconds(late[0].previous_end), self._seconds(late[-1].span.end)
        limit = f"more than {self._limits.max_lag_seconds:g} s (SONOTAG_MAX_LAG_SECONDS)"
        late.clear()
        if self._configuration.on_lag == "error":
            self._fail(Overloaded(f"the model is {limit} late at {end:g} s"))
            return
        message = f"the sound from {start:g} s to {end:g} s was not scored: it would have been {limit} late"
        self._send(Warn(code="lag", message=message, dropped_from=start, dropped_to=end))

    def _send_result(self, entry: WindowEntry, now: float) -> None:
        if self.is_closed or self._sound is None or entry.scores is None:
            return
        span, window = entry.span, self._configuration.grid.window_samples
        self._num_scored += 1
        self._answered_end = span.end
        self._send(
            Tags(
                start=self._seconds(span.start),
                end=self._seconds(span.end),
                coverage=len(span) / window,
                lag_ms=round(1000 * max(0.0, now - entry.reference), 1),
                tags=tuple(TagItem.model_validate(tag) for tag in entry.selector.select(entry.scores)),
            )
        )
        self._send_events(self._sound.detector.add(span.start, span.end, entry.scores))

    def _send_events(self, changes: list[EventChange]) -> None:
        for change in changes:
            event = change.event
            self._send(
                EventMessage(
                    event_id=change.event_id,
                    label=self.spec.labels[event.label_id],
                    phase=change.phase,
                    onset=self._seconds(event.onset),
                    offset=self._seconds(event.offset),
                    peak=round(event.peak, SCORE_DIGITS),
                    retracted=True if change.retracted else None,
                )
            )

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
            self._send_events(self._sound.detector.finish())
        if self._end_error is not None:
            self._fail(self._end_error)
            return
        if self._close_code == 1000:
            self._send(
                Summary(
                    duration=self.received_seconds,
                    windows=self._num_scored,
                    dropped_seconds=self._seconds(self._dropped_samples),
                    events=self._sound.detector.num_events if self._sound else 0,
                )
            )
        self._close(self._close_code, "done" if self._close_code == 1000 else "going away")

    def _fail(self, error: ServiceError) -> None:
        self._send_error(error, fatal=True)
        self._close(error.close_code, error.code)

    def _close(self, code: int, reason: str) -> None:
        self._actions.append(Close(code, reason))
        self._state = _State.CLOSED
