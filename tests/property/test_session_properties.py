"""Whatever clients, the model and the clock do, a stream keeps its promises."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audio.formats import RawFormat
from service.audio.intake import RawIntake
from service.errors import CutSample, DeadlineExceeded, InferenceFailed
from tests.support.runners import expected_scores
from tests.support.streams import LIMITS, RAW, DrivenSession

LEGAL_CLOSES = {1000, 1001, 1007, 1011, 4400, 4408, 4413, 4415, 4429, 4503}

texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            '{"type": "start", "encoding": "s16le", "sample_rate": 16000}',
            '{"type": "start", "encoding": "s16le", "sample_rate": 16000, "hop": 0.5, "on_lag": "wait"}',
            '{"type": "start"}',
            '{"type": "flush"}',
            '{"type": "keep_alive"}',
            '{"type": "stop"}',
            '{"type": "update", "hop": 0.3}',
            '{"type": "update", "top_k": 1, "labels": ["Dog"], "events": {"onset_threshold": 0.4}}',
            '{"type": "update", "events": false}',
            '{"type": "update", "hop": 99}',
            '{"type": "nothing"}',
            "[]",
        ]
    ),
)
steps = st.one_of(
    st.tuples(st.just("text"), texts),
    st.tuples(st.just("audio"), st.tuples(st.integers(0, 3), st.integers(0, 40_000))),
    st.tuples(st.just("answer"), st.integers(0, 3)),
    st.tuples(st.just("fail"), st.sampled_from([DeadlineExceeded("late"), InferenceFailed("broken")])),
    st.tuples(st.just("wait"), st.floats(0, 70)),
    st.tuples(st.just("poll"), st.floats(0, 5)),
    st.tuples(st.just("drain"), st.none()),
    st.tuples(st.just("cut"), st.none()),
    st.tuples(st.just("huge"), st.none()),
)
queries = st.sampled_from([{}, RAW, {**RAW, "on_lag": "wait"}, {**RAW, "on_lag": "error", "hop": "0.25"}, {"hop": "0.5"}])


def take(driven, step):
    kind, value = step
    match kind:
        case "text":
            driven.text(value)
        case "audio":
            label, count = value
            driven.audio(np.full(count, 1000 * label, np.int16))
        case "answer" if driven.waiting:
            infer = driven.waiting.pop(min(value, len(driven.waiting) - 1))
            driven.do(driven.session.receive_scores(infer.ticket, expected_scores(infer.waveform), driven.now))
        case "fail" if driven.waiting:
            driven.do(driven.session.receive_failure(driven.waiting.pop(0).ticket, value, driven.now))
        case "wait":
            driven.now += value
        case "poll":
            driven.poll(driven.now + value)
        case "drain":
            driven.do(driven.session.drain(driven.now))
        case "cut" if driven.session.is_configured and driven.session.is_reading:
            driven.do(driven.session.receive_audio_end(driven.now, CutSample("cut")))
        case "huge":
            driven.do(driven.session.receive_binary(LIMITS.max_frame_bytes + 1, driven.now))
    driven.finish_if_asked()


def drive_to_the_end(query, taken):
    driven = DrivenSession(query)
    for step in taken:
        take(driven, step)
    driven.text('{"type": "stop"}')
    driven.answer()
    return driven


@given(queries, st.lists(steps, max_size=30))
@settings(max_examples=400, deadline=None)
def test_any_order_of_messages_ends_in_a_legal_close(query, taken):
    driven = drive_to_the_end(query, taken)
    assert driven.close is not None
    assert driven.close.code in LEGAL_CLOSES
    seqs = [message["seq"] for message in driven.messages if message["seq"] is not None]
    assert seqs == list(range(1, len(seqs) + 1))
    assert driven.types.count("ready") <= 1
    last = driven.messages[-1]
    if driven.close.code == 1000:
        assert last["type"] == "summary"
        assert last["windows"] == len(driven.of_type("tags"))
    elif driven.close.code != 1001:
        assert last["type"] == "error"
        assert last["fatal"] is True


@given(queries, st.lists(steps, max_size=30))
@settings(max_examples=200, deadline=None)
def test_windows_are_answered_in_order_each_once_and_every_second_is_accounted_for(query, taken):
    driven = drive_to_the_end(query, taken)
    ends = [message["end"] for message in driven.of_type("tags")]
    assert ends == sorted(set(ends))
    onsets, offsets = ([m["event_id"] for m in driven.of_type("event") if m["phase"] == phase] for phase in ("onset", "offset"))
    assert len(set(onsets)) == len(onsets)
    assert len(set(offsets)) == len(offsets)
    assert set(offsets) <= set(onsets)
    if driven.close.code in (1000, 1001):
        assert set(offsets) == set(onsets)
        dropped = sum(d.seconds for d in driven.dropped)
        told = driven.messages[-1]["dropped_seconds"] if driven.close.code == 1000 else dropped
        assert abs(dropped - told) < 1e-9


def told(pieces, query):
    """What a stream in these pieces is told, less what depends on time."""
    driven = DrivenSession(query)
    intake = RawIntake(RawFormat("s16le", 44_100, 2), channel=None, target_rate=16_000)
    for piece in pieces:
        driven.do(driven.session.receive_binary(len(piece), driven.now))
        for block in intake.push(piece):
            driven.do(driven.session.receive_audio(block, driven.now, driven.now))
            driven.answer()
    driven.do(driven.session.receive_text('{"type": "stop"}', driven.now))
    for block in intake.finish():
        driven.do(driven.session.receive_audio(block, driven.now, driven.now))
    driven.finish_if_asked()
    driven.answer()
    assert driven.close.code == 1000
    tags = [{k: v for k, v in m.items() if k not in {"seq", "lag_ms"}} for m in driven.of_type("tags")]
    return tags, [m for m in driven.of_type("event") if m["phase"] == "offset"], driven.messages[-1]["windows"]


@given(st.lists(st.integers(1, 400_000), max_size=8), st.sampled_from(["1", "0.3"]))
@settings(max_examples=25, deadline=None)
def test_any_cutting_of_a_stream_gives_the_same_results_as_the_whole(cuts, hop):
    levels = np.repeat(np.array([0, 1000, 3000, 3000, 2000], np.int16), 22_050)
    data = np.stack([levels, levels], axis=1).tobytes()
    query = {"encoding": "s16le", "sample_rate": "44100", "channels": "2", "hop": hop}
    ends = sorted({cut for cut in cuts if cut < len(data)})
    pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    tags, events, windows = told(pieces, query)
    whole_tags, whole_events, whole_windows = told([data], query)
    assert windows == whole_windows
    assert [m["end"] for m in tags] == [m["end"] for m in whole_tags]
    for tag, whole in zip(tags, whole_tags, strict=True):
        np.testing.assert_allclose([t["score"] for t in tag["tags"]], [t["score"] for t in whole["tags"]], atol=1e-4)
    strip = [[(m["label"], m["onset"], m["offset"]) for m in found] for found in (events, whole_events)]
    assert strip[0] == strip[1]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8), lambda c: st.lists(c, max_size=3)))
@settings(max_examples=100, deadline=None)
def test_any_value_of_any_field_is_taken_or_refused_with_an_error_frame(value):
    for field in ("hop", "top_k", "threshold", "labels", "exclude", "events"):
        driven = DrivenSession()
        driven.text(json.dumps({"type": "update", field: value}))
        assert driven.types[-1] in {"configuration", "error"}
