"""Events out of window scores, while they come.

The law. Let s(t), for one label, be the mean of the scores of the windows with start <= t < end, each window once, and 0
where there is none. A label is active from where s(t) first reaches the onset threshold until s(t) falls below the offset
threshold. An event is an active stretch; stretches at most ``max_gap`` apart are one event; an event shorter than
``min_duration`` is none.

What is final. Windows come in the order of their ends and are at most ``window_samples`` long, so after a window that
ended at e no later one can start at or before e - window_samples: s(t) is final there. Events of the final part, once no
later onset can join them, are told with phase ``offset`` and never change. What lies behind is provisional: it is told
with ``onset`` when it is long enough, corrected with ``update`` when its onset moves, and withdrawn with an ``offset``
flagged ``retracted`` when its stretch became final without it. So the offsets that are not retracted are the events of
the whole sound, whatever was told on the way.

Positions are samples; the caller turns them into seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.errors import InvalidParameter
from service.labels import LabelSet
from service.postprocess.event_config import EventConfig

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch in which a label is heard.

    Attributes:
        label_id: The label's id.
        onset: First sample.
        offset: One past the last sample that supports it.
        peak: The largest s(t) in it, in [0, 1].
    """

    label_id: int
    onset: int
    offset: int
    peak: float


@dataclass(frozen=True, slots=True)
class EventChange:
    """What became known of an event. Each ``event_id`` has one ``onset``, any number of ``update``, one ``offset``."""

    event_id: int
    phase: Literal["onset", "update", "offset"]
    event: Event
    retracted: bool = False


@dataclass(frozen=True, slots=True)
class Thresholds:
    """An `EventConfig` for each label, as arrays `[labels]`; a label without events has thresholds above 1.

    Durations are samples.
    """

    onset: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    min_duration: npt.NDArray[np.int64]
    max_gap: npt.NDArray[np.int64]

    @classmethod
    def compile(
        cls, config: EventConfig | None, labels: LabelSet, sample_rate: int, selected: Iterable[int] | None = None
    ) -> Thresholds:
        """Build the arrays.

        Args:
            config: What counts as an event; None for no events at all.
            labels: The model's labels.
            sample_rate: Hz, to turn seconds into samples.
            selected: Ids of the labels that may have events; None for all.

        Raises:
            UnknownLabel: ``per_label`` names a label that the model has not.
            InvalidParameter: It names one twice. So it has no more entries than there are labels, whatever updates add.
        """
        never = np.full(len(labels), 2.0)
        common = (config or EventConfig()).for_label(None)
        onset, offset = never.copy(), never.copy()
        min_duration = np.full(len(labels), round(common[2] * sample_rate), dtype=np.int64)
        max_gap = np.full(len(labels), round(common[3] * sample_rate), dtype=np.int64)
        if config is not None:
            chosen = slice(None) if selected is None else sorted(selected)
            onset[chosen], offset[chosen] = common[0], common[1]
            keys: dict[int, str] = {}
            for key in config.per_label:
                index = labels.resolve(key, param="events.per_label")
                if (other := keys.setdefault(index, key)) != key:
                    raise InvalidParameter(
                        f"{labels[index]!r} is named twice, as {other[:80]!r} and {key[:80]!r}: name it in one way",
                        param="events.per_label",
                    )
                own = config.for_label(key)
                min_duration[index], max_gap[index] = round(own[2] * sample_rate), round(own[3] * sample_rate)
                if onset[index] <= 1:
                    onset[index], offset[index] = own[0], own[1]
        return cls(onset, offset, min_duration, max_gap)


@dataclass(slots=True)
class _Segment:
    """A stretch on which s(t) is constant for every label."""

    start: int
    end: int
    total: npt.NDArray[np.float64]
    count: int
    thresholds: Thresholds

    def split(self, position: int) -> _Segment:
        """Shorten this to end at a position inside it, and return the rest."""
        rest = _Segment(position, self.end, self.total.copy(), self.count, self.thresholds)
        self.end = position
        return rest


@dataclass(slots=True)
class _Stretch:
    """Segments in a row under the same thresholds."""

    thresholds: Thresholds
    first: int
    spans: list[tuple[int, int]]


def _stretches(segments: Sequence[_Segment], first: int, last: int) -> list[_Stretch]:
    """Group the segments from one index up to another."""
    stretches: list[_Stretch] = []
    for index in range(first, last):
        segment = segments[index]
        if not stretches or stretches[-1].thresholds is not segment.thresholds:
            stretches.append(_Stretch(segment.thresholds, index, []))
        stretches[-1].spans.append((segment.start, segment.end))
    return stretches


@dataclass(slots=True)
class _Track:
    """The hysteresis of one label: its last stretch, whether it still goes on, and what may still join it."""

    label_id: int
    event: Event | None = None
    is_active: bool = False

    def run(self, stretch: _Stretch, column: Sequence[float]) -> list[Event]:
        """Go through segments, whose scores begin in the column at their index; return events that nothing can join any more.

        Plain numbers in one loop: every window takes every label that is heard through a hundred segments at the shortest
        hop, on the event loop (measured: 0.15 us a segment; with an object for each it was 1 us).
        """
        label, thresholds, is_active = self.label_id, stretch.thresholds, self.is_active
        reached, kept = float(thresholds.onset[label]), float(thresholds.offset[label])
        max_gap = int(thresholds.max_gap[label])
        is_open = self.event is not None
        onset, offset, peak = (self.event.onset, self.event.offset, self.event.peak) if self.event else (0, 0, 0.0)
        closed = []
        for (start, end), score in zip(stretch.spans, column[stretch.first :], strict=False):
            if not (is_active and score >= kept):
                is_active = score >= reached
                if is_open and (start if is_active else end) - offset > max_gap:
                    closed.append(Event(label, onset, offset, peak))
                    is_open = False
                if not is_active:
                    continue
                if not is_open:
                    is_open, onset, peak = True, start, score
            offset, peak = end, max(peak, score)
        self.event, self.is_active = Event(label, onset, offset, peak) if is_open else None, is_active
        return closed


@dataclass(slots=True)
class _Announced:
    """An event whose onset was told and whose offset was not."""

    event_id: int
    event: Event


class EventDetector:
    """Finds events in the windows of one stream or file.

    Args:
        window_samples: No window is longer than this.
        thresholds: What counts as an event, from the first sample on.
    """

    def __init__(self, window_samples: int, thresholds: Thresholds) -> None:
        self._window = window_samples
        self._pending_thresholds: list[tuple[int, Thresholds]] = []
        self._thresholds = thresholds
        self._segments: list[_Segment] = []
        self._horizon = 0
        self._end = 0
        self._tracks: dict[int, _Track] = {}
        self._announced: dict[int, list[_Announced]] = {}
        self._num_announced = 0
        self._num_events = 0

    @property
    def num_events(self) -> int:
        """How many events were told with an offset and not retracted."""
        return self._num_events

    def configure(self, thresholds: Thresholds, position: int) -> None:
        """Use other thresholds from a position on. Positions of successive calls must not fall."""
        position = max(position, self._horizon)
        for index, segment in enumerate(self._segments):
            if segment.end <= position:
                continue
            if segment.start < position:
                self._segments.insert(index + 1, segment.split(position))
            else:
                segment.thresholds = thresholds
        if position <= self._end:
            self._thresholds = thresholds
            self._pending_thresholds.clear()
            return
        if self._pending_thresholds and self._pending_thresholds[-1][0] == position:
            self._pending_thresholds.pop()  # what would hold for no sample is not kept
        self._pending_thresholds.append((position, thresholds))

    def add(self, start: int, end: int, scores: FloatArray) -> list[EventChange]:
        """Take the next window's scores and return what became known, in time order for each label.

        Args:
            start: The window's first sample.
            end: One past its last; rises from call to call, by which windows are told apart.
            scores: float32 `[labels]`, in [0, 1]; not kept.

        Raises:
            ValueError: The window is longer than it may be or does not come in order.
        """
        if not (self._end < end and 0 <= start < end and end - start <= self._window):
            raise ValueError(f"window [{start}, {end}) after one that ended at {self._end}, at most {self._window} long")
        self._extend(start, end, len(scores))
        self._split(start)
        for segment in self._segments:
            if segment.start >= start:
                segment.total += scores
                segment.count += 1
        self._horizon = max(self._horizon, end + 1 - self._window)
        self._split(self._horizon)
        return self._advance(self._horizon)

    def finish(self) -> list[EventChange]:
        """Return what remains to be said. No window may follow."""
        self._horizon = self._end
        return self._advance(self._end, is_last=True)

    def _extend(self, start: int, end: int, num_labels: int) -> None:
        """Append segments without scores up to `end`, cut where thresholds change."""
        position = self._end
        while position < end:
            while self._pending_thresholds and self._pending_thresholds[0][0] <= position:
                self._thresholds = self._pending_thresholds.pop(0)[1]
            stop = min(end, self._pending_thresholds[0][0]) if self._pending_thresholds else end
            stop = start if position < start < stop else stop
            self._segments.append(_Segment(position, stop, np.zeros(num_labels), 0, self._thresholds))
            position = stop
        self._end = end

    def _split(self, position: int) -> None:
        for index, segment in enumerate(self._segments):
            if segment.start < position < segment.end:
                self._segments.insert(index + 1, segment.split(position))
                return

    def _advance(self, horizon: int, *, is_last: bool = False) -> list[EventChange]:
        """Move the segments before the horizon into the tracks, then compare with what was told."""
        num_final = sum(segment.end <= horizon for segment in self._segments)
        final_part = _stretches(self._segments, 0, num_final)
        rest = _stretches(self._segments, num_final, len(self._segments))
        labels = set(self._tracks) | set(self._announced)
        columns: dict[int, list[float]] = {}
        if self._segments:
            counts = np.array([[max(1, segment.count)] for segment in self._segments])
            scores = np.stack([segment.total for segment in self._segments]) / counts
            for part in (*final_part, *rest):
                reaches = scores[part.first : part.first + len(part.spans)] >= part.thresholds.onset
                labels.update(np.flatnonzero(reaches.any(axis=0)).tolist())
            order = sorted(labels)
            columns = dict(zip(order, scores[:, order].T.tolist(), strict=True))
        changes: list[EventChange] = []
        for label in sorted(labels):
            track = self._tracks.pop(label, None) or _Track(label)
            column = columns.get(label, [])
            final = self._run(track, final_part, column)
            if is_last and track.event:
                final += self._long_enough([track.event], label)
                track.event = None
            if track.event:
                self._tracks[label] = track
            ahead = _Track(label, track.event, track.is_active)
            provisional = self._run(ahead, rest, column)
            if ahead.event:
                provisional += self._long_enough([ahead.event], label)
            changes += self._reconcile(label, final, provisional, is_last=is_last)
        del self._segments[:num_final]
        return changes

    def _run(self, track: _Track, part: Iterable[_Stretch], column: Sequence[float]) -> list[Event]:
        return self._long_enough([event for stretch in part for event in track.run(stretch, column)], track.label_id)

    def _long_enough(self, events: list[Event], label: int) -> list[Event]:
        shortest = self._thresholds.min_duration[label]
        return [event for event in events if event.offset - event.onset >= shortest]

    def _reconcile(self, label: int, final: list[Event], provisional: list[Event], *, is_last: bool) -> list[EventChange]:
        """Turn the events as they are now, and those that were told before, into what there is to say."""
        changes: list[EventChange] = []
        told = self._announced.pop(label, [])
        kept: list[_Announced] = []
        for event, is_final in [*((event, True) for event in final), *((event, False) for event in provisional)]:
            match = next((a for a in told if a.event.onset <= event.offset and event.onset <= a.event.offset), None)
            if match:
                told.remove(match)
                if not is_final and match.event.onset != event.onset:
                    changes.append(EventChange(match.event_id, "update", event))
                match.event = event
            else:
                self._num_announced += 1
                match = _Announced(self._num_announced, event)
                changes.append(EventChange(match.event_id, "onset", event))
            if is_final:
                self._num_events += 1
                changes.append(EventChange(match.event_id, "offset", event))
            else:
                kept.append(match)
        for left in told:
            if is_last or left.event.offset <= self._horizon:
                changes.append(EventChange(left.event_id, "offset", left.event, retracted=True))
            else:
                kept.append(left)
        if kept:
            self._announced[label] = sorted(kept, key=lambda a: a.event.onset)
        return changes
