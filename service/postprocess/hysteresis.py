"""The hysteresis that makes events of scores: thresholds for each label, and one label's way through s(t).

Positions are samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import InvalidParameter
from service.labels import LabelSet
from service.postprocess.event_config import EventConfig


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
class Segment:
    """A stretch on which s(t) is constant for every label."""

    start: int
    end: int
    total: npt.NDArray[np.float64]
    count: int
    thresholds: Thresholds

    def split(self, position: int) -> Segment:
        """Shorten this to end at a position inside it, and return the rest."""
        rest = Segment(position, self.end, self.total.copy(), self.count, self.thresholds)
        self.end = position
        return rest


@dataclass(slots=True)
class Stretch:
    """Segments in a row under the same thresholds."""

    thresholds: Thresholds
    first: int
    spans: list[tuple[int, int]]


def group_stretches(segments: Sequence[Segment], first: int, last: int) -> list[Stretch]:
    """Group the segments from one index up to another."""
    stretches: list[Stretch] = []
    for index in range(first, last):
        segment = segments[index]
        if not stretches or stretches[-1].thresholds is not segment.thresholds:
            stretches.append(Stretch(segment.thresholds, index, []))
        stretches[-1].spans.append((segment.start, segment.end))
    return stretches


@dataclass(slots=True)
class Track:
    """The hysteresis of one label: its last stretch, whether it still goes on, and what may still join it."""

    label_id: int
    event: Event | None = None
    is_active: bool = False

    def run(self, stretch: Stretch, column: Sequence[float]) -> list[Event]:
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
