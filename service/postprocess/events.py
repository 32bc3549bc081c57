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
from pydantic import Base64Bytes

from service.postprocess.hysteresis import Event, Segment, Stretch, Thresholds, Track, group_stretches

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EventChange:
    """What became known of an event. Each ``event_id`` has one ``onset``, any number of ``update``, one ``offset``."""

    event_id: int
    phase: Literal["onset", "update", "offset"]
    event: Event
    retracted: bool = False


@dataclass(frozen=True, slots=True)
class ThresholdsState:
    """Thresholds as plain data: float64 and int64 `[labels]` in this machine's order."""

    onset: Base64Bytes
    offset: Base64Bytes
    min_duration: Base64Bytes
    max_gap: Base64Bytes


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment as plain data; its thresholds by their place in the list."""

    start: int
    end: int
    total: Base64Bytes
    count: int
    thresholds: int


@dataclass(frozen=True, slots=True)
class DetectorState:
    """A detector as plain data.

    Attributes:
        thresholds: Each one that is in use, once; segments and `pending` name them by place, the first is in force.
        pending: Those to come, with the position from which they hold.
        segments: The provisional part.
        horizon: Up to where all is final.
        end: Where the last window ended.
        tracks: The labels that are heard at the horizon, with the event and whether it goes on.
        announced: Events whose onset was told and whose offset was not.
        num_announced: How many were told.
        num_events: How many were told with an offset.
    """

    thresholds: list[ThresholdsState]
    pending: list[tuple[int, int]]
    segments: list[SegmentState]
    horizon: int
    end: int
    tracks: list[tuple[Event, bool]]
    announced: list[tuple[int, Event]]
    num_announced: int
    num_events: int


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
        self._segments: list[Segment] = []
        self._horizon = 0
        self._end = 0
        self._tracks: dict[int, Track] = {}
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

    def snapshot(self) -> DetectorState:
        """Return all that what is still to be said depends on."""
        used = [self._thresholds]
        for thresholds in (
            *(each for _, each in self._pending_thresholds),
            *(segment.thresholds for segment in self._segments),
        ):
            if not any(thresholds is other for other in used):
                used.append(thresholds)
        place = {id(thresholds): index for index, thresholds in enumerate(used)}
        return DetectorState(
            thresholds=[_pack_thresholds(thresholds) for thresholds in used],
            pending=[(position, place[id(thresholds)]) for position, thresholds in self._pending_thresholds],
            segments=[
                SegmentState(part.start, part.end, Base64Bytes(part.total.tobytes()), part.count, place[id(part.thresholds)])
                for part in self._segments
            ],
            horizon=self._horizon,
            end=self._end,
            tracks=[(track.event, track.is_active) for track in self._tracks.values() if track.event],
            announced=[(told.event_id, told.event) for events in self._announced.values() for told in events],
            num_announced=self._num_announced,
            num_events=self._num_events,
        )

    def restore(self, state: DetectorState) -> None:
        """Go on where another detector, of the same window and labels, stood.

        Raises:
            ValueError: The state is none of such a detector.
        """
        used = [_unpack_thresholds(packed) for packed in state.thresholds]
        num_labels = len(self._thresholds.onset)
        if not used or any(len(thresholds.onset) != num_labels for thresholds in used):
            raise ValueError(f"the state is none of a detector of {num_labels} labels")
        self._thresholds = used[0]
        self._pending_thresholds = [(position, used[index]) for position, index in state.pending]
        self._segments = [
            Segment(part.start, part.end, np.frombuffer(part.total).copy(), part.count, used[part.thresholds])
            for part in state.segments
        ]
        self._horizon, self._end = state.horizon, state.end
        self._tracks = {event.label_id: Track(event.label_id, event, is_active) for event, is_active in state.tracks}
        self._announced = {}
        for event_id, event in state.announced:
            self._announced.setdefault(event.label_id, []).append(_Announced(event_id, event))
        self._num_announced, self._num_events = state.num_announced, state.num_events

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
            self._segments.append(Segment(position, stop, np.zeros(num_labels), 0, self._thresholds))
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
        final_part = group_stretches(self._segments, 0, num_final)
        rest = group_stretches(self._segments, num_final, len(self._segments))
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
            track = self._tracks.pop(label, None) or Track(label)
            column = columns.get(label, [])
            final = self._run(track, final_part, column)
            if is_last and track.event:
                final += self._long_enough([track.event], label)
                track.event = None
            if track.event:
                self._tracks[label] = track
            ahead = Track(label, track.event, track.is_active)
            provisional = self._run(ahead, rest, column)
            if ahead.event:
                provisional += self._long_enough([ahead.event], label)
            changes += self._reconcile(label, final, provisional, is_last=is_last)
        del self._segments[:num_final]
        return changes

    def _run(self, track: Track, part: Iterable[Stretch], column: Sequence[float]) -> list[Event]:
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


def _pack_thresholds(thresholds: Thresholds) -> ThresholdsState:
    arrays = (thresholds.onset, thresholds.offset, thresholds.min_duration, thresholds.max_gap)
    return ThresholdsState(*(Base64Bytes(array.tobytes()) for array in arrays))


def _unpack_thresholds(state: ThresholdsState) -> Thresholds:
    return Thresholds(
        np.frombuffer(state.onset, np.float64),
        np.frombuffer(state.offset, np.float64),
        np.frombuffer(state.min_duration, np.int64),
        np.frombuffer(state.max_gap, np.int64),
    )
