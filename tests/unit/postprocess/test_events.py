"""Single cases of the law at the top of `service.postprocess.events`; properties hold it against a reference."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from service.errors import UnknownLabel
from service.labels import LabelSet
from service.postprocess.event_config import EventConfig
from service.postprocess.events import EventDetector
from service.postprocess.hysteresis import Thresholds

RATE = 10
LABELS = LabelSet(("Speech", "Dog"))


def detector(window=10, **config):
    return EventDetector(window, Thresholds.compile(EventConfig(**config), LABELS, RATE))


def scores(dog):
    return np.array([0, dog], dtype=np.float32)


def told(changes):
    return [(c.event_id, c.phase, c.event.onset, c.event.offset, c.retracted) for c in changes]


def side_by_side(found, *values, window=10):
    changes = []
    for index, value in enumerate(values):
        changes += found.add(index * window, (index + 1) * window, scores(value))
    return changes


def test_an_onset_is_told_at_once_and_an_offset_once_nothing_can_change_it():
    found = detector()
    assert told(found.add(0, 10, scores(0.9))) == [(1, "onset", 0, 10, False)]
    assert told(found.add(10, 20, scores(0.8))) == []
    assert told(found.add(20, 30, scores(0.0))) == []
    assert told(found.add(30, 40, scores(0.0))) == [(1, "offset", 0, 20, False)]
    assert found.finish() == []
    assert found.num_events == 1


def test_the_peak_is_the_largest_mean_and_the_thresholds_are_reached_by_equality():
    found = detector(onset_threshold=0.5, offset_threshold=0.25, min_duration=0)
    side_by_side(found, 0.5, 0.75, 0.25)
    (change,) = found.finish()
    assert (change.event.onset, change.event.offset, change.event.peak) == (0, 30, 0.75)


def test_a_gap_of_exactly_max_gap_is_joined_and_a_longer_one_is_not():
    joined = detector(max_gap=1.0)
    side_by_side(joined, 0.9, 0, 0.9)
    assert [c.event.offset for c in joined.finish()] == [30]
    apart = detector(max_gap=0.9)
    changes = side_by_side(apart, 0.9, 0, 0.9) + apart.finish()
    assert [(c.event.onset, c.event.offset) for c in changes if c.phase == "offset"] == [(0, 10), (20, 30)]


def test_what_is_too_short_is_no_event_and_is_not_told():
    found = detector(min_duration=2.0)
    assert side_by_side(found, 0.9, 0, 0) + found.finish() == []
    assert found.num_events == 0


def test_an_event_that_later_windows_take_away_is_retracted():
    found = detector(window=20)
    assert told(found.add(0, 10, scores(0.6))) == [(1, "onset", 0, 10, False)]
    changes = found.add(0, 20, scores(0.0)) + found.add(10, 30, scores(0.0)) + found.add(20, 40, scores(0))
    assert told(changes) == [(1, "offset", 0, 10, True)]
    assert found.num_events == 0


def test_an_onset_that_moves_is_corrected():
    found = detector(window=20)
    found.add(0, 10, scores(0.6))
    changes = found.add(0, 20, scores(0.3)) + found.add(10, 30, scores(0.9))
    assert told(changes) == [(1, "update", 10, 30, False)] or [c.phase for c in changes][-1] in {"update", "onset"}
    offsets = [c for c in changes + found.finish() if c.phase == "offset" and not c.retracted]
    assert [(c.event.onset, c.event.offset) for c in offsets] == [(10, 30)]


def test_a_stretch_that_no_window_covers_supports_nothing():
    found = detector(max_gap=0)
    found.add(0, 10, scores(0.9))
    changes = found.add(30, 40, scores(0.9)) + found.finish()
    assert [(c.event.onset, c.event.offset) for c in changes if c.phase == "offset"] == [(0, 10), (30, 40)]


def test_other_thresholds_hold_from_their_position_on():
    found = detector(onset_threshold=0.9, offset_threshold=0.9)
    found.add(0, 10, scores(0.6))
    found.configure(Thresholds.compile(EventConfig(), LABELS, RATE), 15)
    found.add(10, 20, scores(0.6))
    found.configure(Thresholds.compile(None, LABELS, RATE), 20)
    changes = found.add(20, 30, scores(0.99)) + found.finish()
    assert [(c.event.onset, c.event.offset) for c in changes if c.phase == "offset"] == [(15, 20)]


def test_other_thresholds_may_begin_in_what_is_still_provisional():
    found = detector(window=20, onset_threshold=0.9, offset_threshold=0.9)
    found.add(0, 20, scores(0.6))
    found.configure(Thresholds.compile(EventConfig(), LABELS, RATE), 10)
    changes = found.add(10, 30, scores(0.6)) + found.finish()
    assert [(c.event.onset, c.event.offset) for c in changes if c.phase == "offset"] == [(10, 30)]


def test_thresholds_that_hold_for_no_sample_are_not_kept():
    found = detector(onset_threshold=0.9, offset_threshold=0.9)
    compiled = [Thresholds.compile(EventConfig(), LABELS, RATE) for _ in range(3)]
    kept = [weakref.ref(thresholds.onset) for thresholds in compiled]
    for thresholds in compiled:
        found.configure(thresholds, 5)
    del compiled, thresholds
    assert [reference() is not None for reference in kept] == [False, False, True]
    changes = found.add(0, 10, scores(0.6)) + found.finish()
    assert [(c.event.onset, c.event.offset) for c in changes if c.phase == "offset"] == [(5, 10)]


@pytest.mark.parametrize(("start", "end"), [(0, 10), (0, 5), (5, 30), (-1, 20), (20, 20)])
def test_windows_out_of_order_or_too_long_are_refused(start, end):
    found = detector()
    found.add(0, 10, scores(0))
    with pytest.raises(ValueError, match="window"):
        found.add(start, end, scores(0))


def test_thresholds_of_single_labels_and_of_selected_ones():
    config = EventConfig(per_label={"dog": {"onset_threshold": 0.9, "min_duration": 3}, "0": {"max_gap": 2}})
    compiled = Thresholds.compile(config, LABELS, RATE, selected={1})
    assert compiled.onset.tolist() == [2.0, 0.9]
    assert compiled.offset.tolist() == [2.0, 0.35]
    assert compiled.min_duration.tolist() == [2, 30]
    assert compiled.max_gap.tolist() == [20, 3]
    with pytest.raises(UnknownLabel, match=r"nearest.*Dog"):
        Thresholds.compile(EventConfig(per_label={"Dogs": {}}), LABELS, RATE)


def test_a_state_holds_thresholds_that_are_yet_to_come_and_is_refused_by_a_detector_of_other_labels():
    found = detector(onset_threshold=0.9, offset_threshold=0.9)
    found.add(0, 10, scores(0.6))
    found.configure(Thresholds.compile(EventConfig(), LABELS, RATE), 15)
    state = found.snapshot()
    gone_on = detector()
    gone_on.restore(state)
    changes = gone_on.add(10, 20, scores(0.6)) + gone_on.finish()
    assert [(c.event.onset, c.event.offset) for c in changes if c.phase == "offset"] == [(15, 20)]
    with pytest.raises(ValueError, match="none of a detector of 1 labels"):
        EventDetector(10, Thresholds.compile(None, LabelSet(("Speech",)), RATE)).restore(state)
