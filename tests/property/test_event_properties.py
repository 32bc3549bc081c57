"""The detector tells, in the end, exactly the events of the law at the top of `service.postprocess.events`."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.labels import LabelSet
from service.postprocess.event_config import EventConfig
from service.postprocess.events import EventChange, EventDetector
from service.postprocess.hysteresis import Thresholds

RATE = 10  # samples a second, so that a reference that looks at every sample stays quick
LABELS = LabelSet(("a", "b"))


def events_sample_by_sample(windows, config, length):
    """The law, written down for every single sample."""
    found = set()
    for label in range(len(LABELS)):
        onset_threshold, offset_threshold, min_duration, max_gap = config.for_label(None)
        stretches: list[list[float]] = []
        active = False
        for t in range(length):
            covering = [scores[label] for start, end, scores in windows if start <= t < end]
            mean = float(np.mean(np.array(covering, dtype=np.float64))) if covering else 0.0
            if active and mean >= offset_threshold:
                stretches[-1][1], stretches[-1][2] = t + 1, max(stretches[-1][2], mean)
                continue
            active = mean >= onset_threshold
            if active:
                if stretches and t - stretches[-1][1] <= round(max_gap * RATE):
                    stretches[-1][1], stretches[-1][2] = t + 1, max(stretches[-1][2], mean)
                else:
                    stretches.append([t, t + 1, mean])
        found |= {(label, on, off, round(peak, 6)) for on, off, peak in stretches if off - on >= round(min_duration * RATE)}
    return found


@st.composite
def sounds(draw):
    """Windows as a stream makes them: partial at first, some dropped, flushes off the grid, one at the end."""
    window = draw(st.integers(2, 30))
    hop = draw(st.integers(1, window))
    length = draw(st.integers(1, 120))
    ends = {k * hop for k in range(1, length // hop + 1)} | {length} | draw(st.sets(st.integers(1, length), max_size=3))
    ends -= draw(st.sets(st.sampled_from(sorted(ends)), max_size=len(ends) - 1))
    scores = st.tuples(*[st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.9]) for _ in LABELS])
    return window, [(max(0, end - window), end, draw(scores)) for end in sorted(ends)]


configs = st.builds(
    EventConfig,
    onset_threshold=st.sampled_from([0.45, 0.5, 0.7]),
    offset_threshold=st.sampled_from([0.1, 0.3, 0.45]),
    min_duration=st.sampled_from([0.0, 0.2, 1.0]),
    max_gap=st.sampled_from([0.0, 0.3, 1.0]),
)


def run(window, windows, config) -> list[EventChange]:
    detector = EventDetector(window, Thresholds.compile(config, LABELS, RATE))
    changes = [c for start, end, s in windows for c in detector.add(start, end, np.array(s, dtype=np.float32))]
    return changes + detector.finish()


@given(sounds(), configs)
@settings(max_examples=400, deadline=None)
def test_the_offsets_are_the_events_of_the_law(sound, config):
    window, windows = sound
    exact = [(start, end, np.array(scores, dtype=np.float32)) for start, end, scores in windows]
    told = [c.event for c in run(window, windows, config) if c.phase == "offset" and not c.retracted]
    assert {(e.label_id, e.onset, e.offset, round(e.peak, 6)) for e in told} == events_sample_by_sample(
        exact, config, windows[-1][1]
    )
    assert len(told) == len({(e.label_id, e.onset) for e in told})


@given(sounds(), configs)
@settings(max_examples=300, deadline=None)
def test_every_event_has_one_onset_then_corrections_then_one_offset(sound, config):
    phases = defaultdict(list)
    for change in run(*sound, config):
        phases[change.event_id].append(change.phase)
    for told in phases.values():
        assert told[0] == "onset"
        assert told[-1] == "offset"
        assert set(told[1:-1]) <= {"update"}


@given(sounds(), configs, st.data())
@settings(max_examples=200, deadline=None)
def test_an_offset_once_told_does_not_depend_on_what_follows(sound, config, data):
    window, windows = sound
    detector = EventDetector(window, Thresholds.compile(config, LABELS, RATE))
    cut = data.draw(st.integers(0, len(windows)))
    early = [
        c.event
        for start, end, s in windows[:cut]
        for c in detector.add(start, end, np.array(s, dtype=np.float32))
        if c.phase == "offset" and not c.retracted
    ]
    whole = [c.event for c in run(window, windows, config) if c.phase == "offset" and not c.retracted]
    assert all(event in whole for event in early)
