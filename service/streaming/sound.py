"""The sound of one stream on its way to answers: cut into windows, scored, answered in order, made into events.

Pure: `service.streaming.session` says when, numbers the messages and decides what ends the stream. Positions are samples at
the model's rate.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.audio.windowing import SlidingWindower, Span, WindowerState
from service.errors import Overloaded
from service.inference.runner import FloatArray, Int16Array
from service.observer import DropReason
from service.postprocess.events import DetectorState, EventChange, EventDetector
from service.postprocess.scores import SCORE_DIGITS
from service.streaming.actions import Dropped, Infer
from service.streaming.configuration import ActiveConfiguration
from service.streaming.ledger import WindowEntry, WindowLedger, WindowState
from service.streaming.messages import EventMessage, Limits, ServerMessage, TagItem, Tags, Warn
from service.streaming.monitor import MonitorState, SignalMonitor

Outcome = ServerMessage | Infer | Dropped


@dataclass(frozen=True, slots=True)
class SoundState:
    """The sound of a stream, all of whose windows are answered, as plain data.

    Attributes:
        age_seconds: Since its first frame came.
        num_scored: Windows that were answered.
        dropped_samples: New sound that no window told of.
        answered_end: Up to where windows have told.
        windower: Which windows come next.
        monitor: What is wrong with the sound.
        detector: What is known of events.
    """

    age_seconds: float
    num_scored: int
    dropped_samples: int
    answered_end: int
    windower: WindowerState
    monitor: MonitorState
    detector: DetectorState


class StreamSound:
    """What exists of a stream from its first frame of sound on.

    Args:
        active: Its configuration.
        limits: What it is held to.
        first_arrival: Clock seconds at which its first frame came.

    Attributes:
        first_arrival: The same.
        num_scored: Windows that were answered.
        dropped_samples: New sound that no window told of.
        overload: Set once a window was too late in a stream that asked to be ended then; nothing is answered after it.
    """

    def __init__(self, active: ActiveConfiguration, limits: Limits, first_arrival: float) -> None:
        self.first_arrival = first_arrival
        self.num_scored = 0
        self.dropped_samples = 0
        self.overload: Overloaded | None = None
        self._active = active
        self._limits = limits
        self._rate = active.spec.sample_rate
        self._window_samples = window = active.grid.window_samples
        self._windower = SlidingWindower(window, active.grid.hop_samples, active.spec.min_samples)
        self._ledger = WindowLedger(None if active.on_lag == "wait" else limits.max_lag_seconds)
        self._monitor = SignalMonitor(self._rate)
        self._detector = EventDetector(window, active.thresholds)
        self._answered_end = 0

    @property
    def received_seconds(self) -> float:
        """Sound received, decoded."""
        return self._windower.received_samples / self._rate

    @property
    def dropped_seconds(self) -> float:
        """New sound that no window told of."""
        return self.dropped_samples / self._rate

    @property
    def unanswered_seconds(self) -> float:
        """Sound received that no window has told of yet, be it in a window or not."""
        return self.received_seconds - self._answered_end / self._rate

    @property
    def has_windows(self) -> bool:
        """Whether a window is not answered yet."""
        return len(self._ledger) > 0

    @property
    def may_wait(self) -> bool:
        """Whether the client takes late answers rather than none."""
        return self._active.on_lag == "wait"

    @property
    def num_events(self) -> int:
        """Events told with an offset and not retracted."""
        return self._detector.num_events

    def is_ahead(self, now: float) -> bool:
        """Return whether more sound came than time has passed."""
        return self.received_seconds > now - self.first_arrival

    def next_deadline(self) -> float | None:
        """Return the clock time at which the next window becomes too late, or None."""
        return self._ledger.next_deadline()

    def push(self, samples: Int16Array, arrived_at: float) -> list[Warn]:
        """Take decoded sound, int16 `[n]`, which came at a clock time; return what is newly wrong with it."""
        for span in self._windower.push(samples):
            self._add_window(span, arrived_at)
        findings = self._monitor.push(samples)
        if raw := self._active.audio.raw:
            findings += self._monitor.check_rate(raw.sample_rate, self.received_seconds, arrived_at - self.first_arrival)
        return [Warn(code=finding.code, message=finding.message) for finding in findings]

    def add_tail(self, now: float) -> None:
        """Add the window that ends at the last sample received, if there is anything new in it."""
        if span := self._windower.flush():
            self._add_window(span, now)

    def configure(self, active: ActiveConfiguration) -> float:
        """Use another configuration from the next sample on; return which second that is."""
        self._active = active
        self._windower.set_hop(active.grid.hop_samples)
        self._detector.configure(active.thresholds, self._windower.received_samples)
        return self.received_seconds

    @property
    def received_samples(self) -> int:
        """Sound received or skipped, at the model's rate."""
        return self._windower.received_samples

    def skip(self, position: int, now: float) -> None:
        """The sound up to a position never comes. What came before it is scored as at the end of a stream."""
        self.add_tail(now)
        self._windower.skip(position)
        self._ledger.go_on(position)
        self._answered_end = max(self._answered_end, position)

    def snapshot(self, now: float) -> SoundState:
        """Return it as plain data; every window is answered."""
        return SoundState(
            now - self.first_arrival,
            self.num_scored,
            self.dropped_samples,
            self._answered_end,
            self._windower.snapshot(),
            self._monitor.snapshot(),
            self._detector.snapshot(),
        )

    def restore(self, state: SoundState) -> None:
        """Go on where another one, of the same configuration, stood.

        Raises:
            ValueError: The state does not fit the configuration.
        """
        self.num_scored, self.dropped_samples = state.num_scored, state.dropped_samples
        self._answered_end = state.answered_end
        self._windower.restore(state.windower)
        self._ledger.go_on(state.windower.last_end)
        self._monitor.restore(state.monitor)
        self._detector.restore(state.detector)

    def settle(self, ticket: int, scores: FloatArray | None, now: float, reason: DropReason = "lag") -> None:
        """Take the model's answer for a window; see `WindowLedger.settle`."""
        self._ledger.settle(ticket, scores, now, reason)

    def advance(self, now: float) -> list[Outcome]:
        """Drop what is too late, give windows to the model, and answer those whose turn it is."""
        if not self.has_windows:
            self._windower.release(self._windower.received_samples)
            return []
        self._ledger.expire(now)
        outcomes: list[Outcome] = [
            Infer(
                entry.ticket,
                self._windower.read(entry.span),
                self._window_samples,
                entry.reference,
                self._ledger.deadline(entry),
            )
            for entry in self._ledger.issue()
        ]
        late: list[WindowEntry] = []
        for entry in self._ledger.pop_settled():
            if entry.state is WindowState.DROPPED:
                outcomes.append(self._drop(entry))
                if entry.drop_reason == "lag":
                    late.append(entry)
                continue
            outcomes += self._announce(late)
            if self.overload is None:
                outcomes += self._answer(entry, now)
        outcomes += self._announce(late)
        oldest = self._ledger.oldest
        self._windower.release(oldest.span.start if oldest else self._windower.received_samples)
        return outcomes

    def finish(self) -> list[EventMessage]:
        """Return what remains to be said of events, once every window is answered and none follows."""
        return self._event_messages(self._detector.finish())

    def _add_window(self, span: Span, arrived_at: float) -> None:
        reference = max(arrived_at, self.first_arrival + span.end / self._rate)
        self._ledger.add(span, reference, self._active.selector)

    def _drop(self, entry: WindowEntry) -> Dropped:
        new_samples = entry.span.end - entry.previous_end
        self.dropped_samples += new_samples
        self._answered_end = max(self._answered_end, entry.span.end)
        return Dropped(entry.drop_reason, new_samples / self._rate)

    def _announce(self, late: list[WindowEntry]) -> list[Outcome]:
        """Tell of windows in a row that were too late, and forget them."""
        if not late or self.overload is not None:
            return []
        start, end = late[0].previous_end / self._rate, late[-1].span.end / self._rate
        late.clear()
        limit = f"more than {self._limits.max_lag_seconds:g} s (SONOTAG_MAX_LAG_SECONDS)"
        if self._active.on_lag == "error":
            self.overload = Overloaded(f"the model is {limit} late at {end:g} s")
            return []
        message = f"the sound from {start:g} s to {end:g} s was not scored: it would have been {limit} late"
        return [Warn(code="lag", message=message, dropped_from=start, dropped_to=end)]

    def _answer(self, entry: WindowEntry, now: float) -> list[ServerMessage]:
        assert entry.scores is not None
        span = entry.span
        self.num_scored += 1
        self._answered_end = max(self._answered_end, span.end)
        tags = Tags(
            start=span.start / self._rate,
            end=span.end / self._rate,
            coverage=len(span) / self._active.grid.window_samples,
            lag_ms=round(1000 * max(0.0, now - entry.reference), 1),
            tags=tuple(TagItem.model_validate(tag) for tag in entry.selector.select(entry.scores)),
        )
        return [tags, *self._event_messages(self._detector.add(span.start, span.end, entry.scores))]

    def _event_messages(self, changes: list[EventChange]) -> list[EventMessage]:
        return [
            EventMessage(
                event_id=change.event_id,
                label=self._active.spec.labels[change.event.label_id],
                phase=change.phase,
                onset=change.event.onset / self._rate,
                offset=change.event.offset / self._rate,
                peak=round(change.event.peak, SCORE_DIGITS),
                retracted=True if change.retracted else None,
            )
            for change in changes
        ]
