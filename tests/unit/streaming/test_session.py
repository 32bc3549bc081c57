from __future__ import annotations

import json

import numpy as np
import pytest

from service.errors import CutSample, DeadlineExceeded, InferenceFailed, UndecodableAudio
from service.streaming.messages import Limits
from tests.support.runners import make_spec
from tests.support.streams import LIMITS, RAW, DrivenSession


def limits(**changes: float) -> Limits:
    return LIMITS.model_copy(update=changes)


STOP = '{"type": "stop"}'


# The configuration


def test_a_complete_query_is_answered_with_ready_at_once():
    driven = DrivenSession({**RAW, "hop": "0.5", "top_k": "2", "labels": "speech"})
    (ready,) = driven.messages
    assert ready["type"] == "ready"
    assert ready["session_id"] == "session"
    assert ready["model"] == {"name": "fake", "sha256": "0" * 64}
    assert ready["limits"]["max_lag_seconds"] == 2
    assert ready["configuration"] == {
        "model": "fake",
        "encoding": "s16le",
        "sample_rate": 16000,
        "channels": 1,
        "channel": None,
        "window": 1.0,
        "hop": 0.5,
        "top_k": 2,
        "threshold": 0.1,
        "labels": ["Speech"],
        "exclude": [],
        "events": {"onset_threshold": 0.5, "offset_threshold": 0.35, "min_duration": 0.2, "max_gap": 0.3, "per_label": {}},
        "on_lag": "skip",
    }


def test_an_incomplete_query_waits_for_start_and_both_are_mixed():
    driven = DrivenSession({"hop": "0.5"})
    assert driven.messages == []
    driven.text('{"type": "start", "encoding": "s16le", "sample_rate": 16000, "window": 0.5, "events": false}')
    configuration = driven.messages[0]["configuration"]
    assert (configuration["hop"], configuration["window"], configuration["events"]) == (0.5, 0.5, False)


def test_start_may_add_to_a_complete_query_before_sound_comes():
    driven = DrivenSession({**RAW, "labels": "Dog"})
    driven.text('{"type": "start", "hop": 0.25, "labels": ["Dog"], "resume_token": "t", "last_seq": 3}')
    assert driven.types == ["ready", "configuration", "error"]
    assert driven.messages[1]["configuration"]["hop"] == 0.25
    assert driven.messages[2]["code"] == "resume_unknown"
    assert driven.messages[2]["fatal"] is False


def test_a_token_that_cannot_be_resumed_starts_a_new_stream():
    driven = DrivenSession({**RAW, "resume_token": "t"})
    assert driven.types == ["ready", "error"]
    driven.second()
    assert driven.waiting


@pytest.mark.parametrize(
    ("query", "start", "param"),
    [
        ({"hop": "0.5"}, {"encoding": "s16le", "sample_rate": 16000, "hop": 0.25}, "hop"),
        ({"events": '{"max_gap": 1}'}, {"encoding": "s16le", "sample_rate": 16000, "events": {"max_gap": 2}}, "events"),
        ({"labels": "1"}, {"encoding": "s16le", "sample_rate": 16000, "labels": [2]}, "labels"),
        ({"model": "fake"}, {"encoding": "s16le", "sample_rate": 16000, "model": "other"}, "model"),
    ],
)
def test_a_query_and_a_start_that_contradict_each_other_end_the_stream(query, start, param):
    driven = DrivenSession(query)
    driven.text(json.dumps({"type": "start", **start}))
    assert driven.messages[-1]["param"] == param
    assert driven.close.code == 4400


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"encoding": "s24le"}, "invalid_parameter", "encoding"),
        ({"encodng": "s16le"}, "invalid_parameter", "encodng"),
        ({**RAW, "top-k": "1"}, "invalid_parameter", "top-k"),
        ({**RAW, "sample_rate": "1"}, "invalid_parameter", "sample_rate"),
        ({**RAW, "channels": "9"}, "invalid_parameter", "channels"),
        ({**RAW, "channel": "1"}, "invalid_parameter", "channel"),
        ({**RAW, "window": "2"}, "invalid_parameter", "window"),
        ({**RAW, "hop": "0.05"}, "invalid_parameter", "hop"),
        ({**RAW, "hop": "nan"}, "invalid_parameter", "hop"),
        ({**RAW, "top_k": "0"}, "invalid_parameter", "top_k"),
        ({**RAW, "labels": "Speach"}, "unknown_label", "labels"),
        ({**RAW, "exclude": "77"}, "unknown_label", "exclude"),
        ({**RAW, "events": "sometimes"}, "invalid_parameter", "events"),
        ({**RAW, "events": '{"onset": 1}'}, "invalid_parameter", "events.onset"),
        ({**RAW, "events": '{"max-gap": 1}'}, "invalid_parameter", "events.max-gap"),
        ({**RAW, "events": '{"per_label": {"Dog": {"max gap": 1}}}'}, "invalid_parameter", "events.per_label.Dog.max gap"),
        ({**RAW, "events": '{"onset_threshold": 2}'}, "invalid_parameter", "events.onset_threshold"),
        ({**RAW, "events": '{"per_label": {"Cow": {}}}'}, "unknown_label", "events.per_label"),
        ({**RAW, "model": "other"}, "not_found", "model"),
        ({"encoding": "auto", "sample_rate": "8000"}, "invalid_parameter", "sample_rate"),
        ({"encoding": "auto", "channels": "2"}, "invalid_parameter", "channels"),
    ],
)
def test_a_bad_query_is_an_error_frame_and_4400(query, code, param):
    driven = DrivenSession(query)
    (error,) = driven.messages
    assert (error["type"], error["code"], error["param"], error["fatal"]) == ("error", code, param, True)
    assert driven.close.code == 4400


@pytest.mark.parametrize("start", [{"sample_rate": 16000}, {"encoding": "s16le"}])
def test_a_start_that_lacks_what_sound_needs_is_4400(start):
    driven = DrivenSession({})
    driven.text(json.dumps({"type": "start", **start}))
    assert driven.close.code == 4400


def test_a_parameter_that_the_query_gives_twice_is_an_error():
    driven = DrivenSession(None)
    driven.do(driven.session.open([("hop", "1"), ("hop", "0.5")], 0))
    error = driven.messages[-1]
    assert (error["code"], error["param"]) == ("invalid_parameter", "hop")
    assert "given twice, as '1' and '0.5'" in error["message"]
    assert driven.close.code == 4400


def test_sound_before_the_configuration_is_4400():
    driven = DrivenSession({})
    driven.second()
    assert driven.messages[-1]["code"] == "protocol"
    assert driven.close.code == 4400


@pytest.mark.parametrize(
    ("query", "param"), [({}, "encoding"), ({"encoding": "s16le"}, "sample_rate"), ({"sample_rate": "8000"}, "encoding")]
)
def test_sound_before_the_configuration_is_told_what_is_missing(query, param):
    driven = DrivenSession(query)
    driven.second()
    assert driven.messages[-1]["param"] == param
    assert f"{param} is missing" in driven.messages[-1]["message"]


def test_an_unknown_encoding_is_told_of_all_there_are():
    driven = DrivenSession({"encoding": "pcm"})
    for name in ("s16le", "alaw", "auto"):
        assert f"'{name}'" in driven.messages[-1]["message"]


def test_a_message_without_a_type_is_told_so():
    driven = DrivenSession()
    driven.text('{"typ": "stop"}')
    assert "has no type" in driven.messages[-1]["message"]


def test_start_after_sound_is_4400():
    driven = DrivenSession()
    driven.second()
    driven.text('{"type": "start", "hop": 0.5}')
    assert driven.close.code == 4400


@pytest.mark.parametrize("text", ["hello", "[1]", "[" * 30_000, '"' + "x" * 70_000 + '"'])
def test_text_that_is_no_json_object_is_1007(text):
    driven = DrivenSession()
    driven.text(text)
    assert driven.messages[-1]["code"] == "bad_message"
    assert driven.close.code == 1007


@pytest.mark.parametrize("text", ['{"type": "go"}', "{}", '{"type": ["stop"]}', '{"type": "stop", "now": true}'])
def test_an_unknown_message_is_fatal_before_the_configuration_and_not_after(text):
    early = DrivenSession({})
    early.text(text)
    assert early.close.code == 4400
    later = DrivenSession()
    later.text(text)
    assert later.close is None
    assert later.messages[-1]["fatal"] is False


# Windows and tags


def test_windows_end_at_multiples_of_the_hop_and_the_first_are_partial():
    driven = DrivenSession({**RAW, "hop": "0.25"})
    driven.second()
    driven.answer()
    told = [(m["start"], m["end"], m["coverage"]) for m in driven.of_type("tags")]
    assert told == [(0, 0.25, 0.25), (0, 0.5, 0.5), (0, 0.75, 0.75), (0, 1, 1)]


def test_every_message_after_ready_has_a_seq_that_rises_by_one():
    driven = DrivenSession()
    driven.second(count=3)
    driven.answer()
    driven.text(STOP)
    assert "seq" in driven.messages[0]
    assert driven.messages[0]["seq"] is None
    assert [m["seq"] for m in driven.messages[1:]] == list(range(1, len(driven.messages)))


def test_answers_leave_in_window_order_whatever_order_the_model_has():
    driven = DrivenSession({**RAW, "hop": "0.5"})
    driven.second(count=2)
    assert len(driven.waiting) == 4
    driven.waiting.reverse()
    driven.answer()
    assert [m["end"] for m in driven.of_type("tags")] == [0.5, 1.0, 1.5, 2.0]


def test_no_more_than_a_few_windows_are_with_the_model_at_once():
    driven = DrivenSession({**RAW, "hop": "0.1"})
    driven.second()
    assert len(driven.waiting) == 4
    driven.answer(1)
    assert len(driven.waiting) == 4


def test_tags_bear_the_lag_from_the_later_of_arrival_and_the_stream_s_own_time():
    driven = DrivenSession()
    driven.second(count=2, at=100.0)  # one second ahead of real time at the first window's end, two at the second's
    driven.now = 101.5
    driven.answer()
    assert [m["lag_ms"] for m in driven.of_type("tags")] == [500.0, 0.0]
    driven.second(at=110.0)  # late
    driven.now = 110.25
    driven.answer()
    assert driven.of_type("tags")[-1]["lag_ms"] == 250.0


def test_flush_scores_the_tail_once_and_the_grid_does_not_move():
    driven = DrivenSession({**RAW, "hop": "0.5"})
    driven.text('{"type": "flush"}')
    driven.audio(np.full(4000, 1000, np.int16))
    driven.text('{"type": "flush"}')
    driven.text('{"type": "flush"}')
    driven.audio(np.full(8000, 1000, np.int16))
    driven.answer()
    assert [m["end"] for m in driven.of_type("tags")] == [0.25, 0.5]


def test_stop_scores_the_rest_sends_everything_and_closes_with_1000():
    driven = DrivenSession({**RAW, "hop": "1"})
    driven.second()
    driven.audio(np.full(4000, 1000, np.int16))
    driven.text(STOP)
    assert driven.close is None
    driven.answer()
    assert [(m["start"], m["end"]) for m in driven.of_type("tags")] == [(0, 1), (0.25, 1.25)]
    assert driven.types[-2:] == ["event", "summary"]
    summary = driven.messages[-1]
    assert (summary["duration"], summary["windows"], summary["dropped_seconds"], summary["events"]) == (1.25, 2, 0, 1)
    assert driven.close.code == 1000


def test_stop_adds_no_window_when_nothing_came_after_the_last_one():
    driven = DrivenSession()
    driven.second()
    driven.text(STOP)
    driven.answer()
    assert len(driven.of_type("tags")) == 1


def test_stop_without_sound_is_a_summary_of_nothing():
    driven = DrivenSession()
    driven.text(STOP)
    assert driven.types == ["ready", "summary"]
    assert driven.messages[-1]["windows"] == 0
    assert driven.close.code == 1000


def test_stop_before_the_configuration_is_4400():
    driven = DrivenSession({})
    driven.text(STOP)
    assert driven.close.code == 4400


def test_a_cut_sample_at_stop_is_1007_after_everything_whole_was_sent():
    driven = DrivenSession()
    driven.second()
    driven.do(driven.session.receive_text(STOP, driven.now))
    driven.finish_if_asked(CutSample("one byte is left"))
    driven.answer()
    assert driven.types[-2:] == ["event", "error"]
    assert driven.close.code == 1007


def test_sound_that_cannot_be_decoded_further_ends_the_stream_after_what_was_whole():
    driven = DrivenSession({"encoding": "auto"})
    driven.second()
    driven.do(driven.session.receive_audio_end(driven.now, UndecodableAudio("broken")))
    assert not driven.session.is_reading
    assert not driven.must_finish
    driven.answer()
    assert driven.of_type("tags")
    assert driven.close.code == 4415


def test_nothing_is_answered_after_the_close():
    driven = DrivenSession()
    driven.second()
    (infer,) = driven.waiting
    driven.do(driven.session.fail(InferenceFailed("broken")))
    assert driven.close.code == 1011
    session, now = driven.session, driven.now
    assert session.receive_text(STOP, now) == []
    assert session.receive_binary(4, now) == []
    assert session.receive_audio(np.zeros(16_000, np.int16), now, now) == []
    assert session.receive_audio_end(now) == []
    assert session.receive_scores(infer.ticket, np.zeros(4, np.float32), now) == []
    assert session.receive_failure(infer.ticket, InferenceFailed("broken"), now) == []
    assert session.poll(now) == []
    assert session.drain(now) == []
    assert session.fail(InferenceFailed("again")) == []
    assert session.abandon() == []
    assert session.next_poll(now) is None


# Events


def test_the_offset_messages_of_a_stream_are_its_events():
    driven = DrivenSession({**RAW, "hop": "0.5", "labels": "Dog"})
    for label in (1, 3, 3, 3, 1, 1, 1):
        driven.second(label)
        driven.answer()
    driven.text(STOP)
    driven.answer()
    (offset,) = [m for m in driven.of_type("event") if m["phase"] == "offset" and not m["retracted"]]
    assert offset["label"] == "Dog"
    assert (offset["onset"], offset["offset"]) == (1.0, 4.0)
    assert driven.messages[-1]["events"] == 1


def test_no_events_are_sent_where_none_are_wanted():
    driven = DrivenSession({**RAW, "events": "false"})
    driven.second(count=2)
    driven.answer()
    driven.text(STOP)
    assert driven.of_type("event") == []


# Update


def test_update_changes_tags_from_the_next_sample_on_and_says_so():
    driven = DrivenSession()
    driven.second(count=2)
    driven.text('{"type": "update", "top_k": 1, "exclude": ["Speech"], "threshold": 0}')
    driven.second(count=1)
    driven.answer()
    (configuration,) = driven.of_type("configuration")
    assert configuration["from"] == 2.0
    assert configuration["configuration"]["exclude"] == ["Speech"]
    tags = [m["tags"] for m in driven.of_type("tags")]
    assert [t[0]["label"] for t in tags] == ["Speech", "Speech", "Silence"]


def test_update_of_the_hop_moves_the_windows_that_follow():
    driven = DrivenSession()
    driven.second()
    driven.text('{"type": "update", "hop": 0.5}')
    driven.second()
    driven.answer()
    assert [m["end"] for m in driven.of_type("tags")] == [1.0, 1.5, 2.0]


def test_update_of_the_events_changes_them_as_a_merge_patch():
    driven = DrivenSession({**RAW, "events": '{"max_gap": 0.5, "per_label": {"Dog": {"onset_threshold": 0.9}}}'})
    driven.text('{"type": "update", "events": {"onset_threshold": 0.4, "per_label": {"Dog": null}}}')
    events = driven.messages[-1]["configuration"]["events"]
    assert events == {
        "onset_threshold": 0.4,
        "offset_threshold": 0.35,
        "min_duration": 0.2,
        "max_gap": 0.5,
        "per_label": {},
    }
    driven.text('{"type": "update", "events": false}')
    assert driven.messages[-1]["configuration"]["events"] is False
    driven.text('{"type": "update", "events": true}')
    assert driven.messages[-1]["configuration"]["events"]["onset_threshold"] == 0.5


def test_an_update_that_names_a_label_in_another_way_is_refused_so_that_updates_do_not_add_up():
    driven = DrivenSession({**RAW, "events": '{"per_label": {"Dog": {"max_gap": 1}}}'})
    for index, name in enumerate(["dog", "3", "03", "DOG"], start=1):
        driven.text(json.dumps({"type": "update", "events": {"per_label": {name: {"max_gap": 2}}}}))
        error = driven.messages[index]
        assert (error["code"], error["param"], error["fatal"]) == ("invalid_parameter", "events.per_label", False)
        assert f"'Dog' is named twice, as 'Dog' and {name!r}" in error["message"]
    driven.text('{"type": "update", "events": {"per_label": {"Dog": {"max_gap": 2}}}}')
    assert driven.messages[-1]["configuration"]["events"]["per_label"].keys() == {"Dog"}


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "update", "hop": 7}',
        '{"type": "update", "labels": ["nothing"]}',
        '{"type": "update", "events": 7}',
        '{"type": "update", "events": {"offset_threshold": 0.9}}',
        '{"type": "update", "window": 1}',
    ],
)
def test_a_bad_update_is_an_error_and_the_stream_goes_on_as_before(text):
    driven = DrivenSession()
    driven.second()
    driven.text(text)
    assert driven.messages[-1]["type"] == "error"
    assert driven.messages[-1]["fatal"] is False
    assert driven.close is None


def test_what_holds_for_the_whole_stream_is_said_to_be_chosen_in_start():
    driven = DrivenSession()
    driven.text('{"type": "update", "window": 1}')
    error = driven.messages[-1]
    assert (error["param"], error["message"]) == ("window", "window is chosen in start, for the whole stream")


def test_update_before_the_configuration_is_an_error():
    driven = DrivenSession({})
    driven.text('{"type": "update", "top_k": 1}')
    assert driven.messages[-1]["code"] == "protocol"


# Lag


def test_windows_that_are_too_late_are_dropped_whole_oldest_first_and_announced():
    driven = DrivenSession()
    for second in range(8):
        driven.second(at=101.0 + second)
    assert len(driven.waiting) == 4
    driven.poll(108.5)
    driven.answer()
    told = [(m["dropped_from"], m["dropped_to"]) for m in driven.of_type("warning")]
    assert [told[0][0], *(end for _, end in told)] == [0.0, *(start for start, _ in told[1:]), 5.0]
    assert [m["end"] for m in driven.of_type("tags")] == [6.0, 7.0, 8.0]
    assert sum(d.seconds for d in driven.dropped) == 5.0
    driven.text(STOP)
    assert driven.messages[-1]["dropped_seconds"] == 5.0


def test_a_window_that_the_batcher_gave_up_as_too_late_is_announced_too():
    driven = DrivenSession()
    driven.second()
    (infer,) = driven.waiting
    assert infer.deadline == driven.now + 1 + 2
    driven.do(driven.session.receive_failure(infer.ticket, DeadlineExceeded("late"), driven.now))
    assert driven.messages[-1]["code"] == "lag"


def test_with_on_lag_error_the_stream_ends_with_4503():
    driven = DrivenSession({**RAW, "on_lag": "error"})
    driven.second(at=100.0)
    driven.second(at=101.0)
    driven.now = 104.5
    driven.answer()
    assert driven.messages[-1]["code"] == "overloaded"
    assert driven.messages[-1]["retryable"] is True
    assert driven.close.code == 4503


def test_with_on_lag_wait_nothing_is_dropped_and_reading_pauses_instead():
    driven = DrivenSession({**RAW, "on_lag": "wait"})
    driven.second(count=10)
    assert not driven.session.is_paused(driven.now)
    driven.second()
    assert driven.session.is_paused(driven.now)
    driven.now += 1000
    assert driven.session.is_paused(driven.now)
    assert driven.waiting[0].deadline is None
    driven.answer()
    assert not driven.session.is_paused(driven.now)
    assert len(driven.of_type("tags")) == 11
    assert driven.dropped == []


def test_a_stream_ahead_of_real_time_pauses_and_one_at_real_time_is_always_read():
    driven = DrivenSession()
    driven.second(count=12)
    assert driven.session.is_paused(driven.now)
    assert driven.session.next_poll(driven.now) <= driven.now + 12
    assert not driven.session.is_paused(driven.now + 12)


def test_a_failed_window_is_told_and_the_stream_goes_on():
    driven = DrivenSession()
    driven.second(count=2)
    driven.do(driven.session.receive_failure(driven.waiting.pop(0).ticket, InferenceFailed("poisoned"), driven.now))
    driven.answer()
    assert driven.messages[1]["code"] == "inference_failed"
    assert driven.messages[1]["fatal"] is False
    assert [m["end"] for m in driven.of_type("tags")] == [2.0]
    assert driven.dropped[0].reason == "inference_failed"


# Time


def test_an_idle_stream_ends_with_4408_after_what_came_was_answered():
    driven = DrivenSession(limits=limits(idle_seconds=5))
    driven.audio(np.full(8000, 1000, np.int16))
    assert driven.session.next_poll(driven.now) == driven.now + 5
    driven.poll(driven.now + 5)
    driven.answer()
    assert [m["end"] for m in driven.of_type("tags")] == [0.5]
    assert driven.messages[-1]["code"] == "stream_expired"
    assert driven.close.code == 4408


def test_keep_alive_resets_the_idle_timer():
    driven = DrivenSession(limits=limits(idle_seconds=5))
    driven.now += 4
    driven.text('{"type": "keep_alive"}')
    driven.poll(driven.now + 4)
    assert driven.close is None


def test_a_paused_stream_is_not_idle():
    driven = DrivenSession({**RAW, "on_lag": "wait"}, limits=limits(idle_seconds=5, max_ahead_seconds=1))
    driven.second(count=3)
    assert driven.session.is_paused(driven.now)
    driven.now += 60
    driven.answer()
    driven.poll(driven.now + 4)
    assert driven.close is None
    driven.poll(driven.now + 1)
    assert driven.close.code == 4408


def test_a_stream_ends_at_its_maximum_duration_by_clock_or_by_sound():
    by_clock = DrivenSession(limits=limits(max_stream_seconds=10))
    by_clock.poll(by_clock.now + 10)
    assert by_clock.close.code == 4408
    by_sound = DrivenSession(limits=limits(max_stream_seconds=10))
    by_sound.second(count=11)
    by_sound.answer()
    assert by_sound.close.code == 4408
    assert len(by_sound.of_type("tags")) == 11


def test_a_frame_over_the_limit_ends_the_stream_with_4413():
    driven = DrivenSession(limits=limits(max_frame_bytes=1000))
    driven.second()
    assert driven.messages[-1]["code"] == "body_too_large"
    assert driven.close.code == 4413


# Drain and leave


def test_a_drain_says_so_answers_what_came_and_closes_with_1001():
    driven = DrivenSession()
    driven.second()
    driven.audio(np.full(4000, 1000, np.int16))
    driven.do(driven.session.drain(driven.now))
    assert not driven.session.is_reading
    driven.finish_if_asked(CutSample("not the client's fault"))
    driven.answer()
    assert [m["end"] for m in driven.of_type("tags")] == [1.0, 1.25]
    assert "going_away" in driven.types
    assert "summary" not in driven.types
    assert "error" not in driven.types
    assert driven.close.code == 1001


def test_a_drain_before_the_configuration_closes_with_1001():
    driven = DrivenSession({})
    driven.do(driven.session.drain(driven.now))
    assert driven.types == ["going_away"]
    assert driven.close.code == 1001


def test_what_a_client_that_leaves_did_not_wait_for_counts_as_dropped():
    driven = DrivenSession()
    driven.second(count=3)
    driven.answer(1)
    driven.do(driven.session.abandon())
    assert [(d.reason, d.seconds) for d in driven.dropped] == [("disconnect", 2.0)]
    quiet = DrivenSession()
    quiet.do(quiet.session.abandon())
    assert quiet.dropped == []


# Warnings


def test_the_stream_warns_of_clipping_silence_and_a_wrong_rate():
    driven = DrivenSession({**RAW, "events": "false"})
    for second in range(13):
        level = 32767 if second == 0 else 0
        driven.audio(np.full(16_000, level, np.int16), at=100.0 + second / 3)
        driven.answer()
    for second in range(13, 40):
        driven.audio(np.full(16_000, 1000, np.int16), at=100.0 + second / 3)
        driven.answer()
    codes = [m["code"] for m in driven.of_type("warning")]
    assert codes == ["clipping", "silence", "sample_rate_suspect"]


def test_another_model_may_be_asked_for():
    other = make_spec(name="other", window_samples=8000)
    driven = DrivenSession({**RAW, "model": "other"}, models={"fake": make_spec(), "other": other})
    assert driven.session.spec is other
    assert driven.messages[0]["configuration"]["window"] == 0.5
    assert driven.messages[0]["configuration"]["hop"] == 0.5


# What the owner may ask


def test_a_session_knows_its_model_and_format_once_it_is_configured():
    driven = DrivenSession({})
    assert not driven.session.is_configured
    with pytest.raises(ValueError, match="not configured"):
        _ = driven.session.spec
    driven.text('{"type": "start", "encoding": "mulaw", "sample_rate": 8000, "channels": 2, "channel": 1}')
    assert driven.session.is_configured
    assert driven.session.audio_format.raw.encoding == "mulaw"
    assert driven.session.audio_format.channel == 1
    assert driven.session.received_seconds == 0
    assert not driven.session.is_closed


def test_a_stream_that_may_wait_sets_no_alarm_while_it_is_paused_but_that_of_its_maximum_duration():
    driven = DrivenSession({**RAW, "on_lag": "wait"})
    driven.second(count=12)
    assert driven.session.next_poll(driven.now) == 100.0 + LIMITS.max_stream_seconds


def test_the_alarm_goes_off_when_the_oldest_unanswered_window_becomes_too_late():
    driven = DrivenSession({**RAW, "hop": "0.1"})
    driven.second()
    assert driven.session.next_poll(driven.now) == pytest.approx(100.0 + 0.1 + 2)


def test_what_is_late_after_an_overload_ended_the_stream_is_not_told():
    driven = DrivenSession({**RAW, "on_lag": "error", "hop": "0.5"})
    driven.second(count=3)
    first, *others = driven.waiting
    for infer in others:
        driven.do(driven.session.receive_scores(infer.ticket, np.zeros(4, np.float32), driven.now))
    driven.now = 200.0
    driven.do(driven.session.receive_failure(first.ticket, DeadlineExceeded("late"), driven.now))
    assert driven.messages[-1]["code"] == "overloaded"
    assert driven.of_type("tags") == []


def test_a_client_that_waited_for_everything_loses_nothing_when_it_leaves():
    driven = DrivenSession()
    driven.second()
    driven.answer()
    driven.do(driven.session.abandon())
    assert driven.dropped == []


def test_a_second_start_without_a_token_is_no_attempt_to_resume():
    driven = DrivenSession()
    driven.text('{"type": "start", "top_k": 1}')
    assert driven.types == ["ready", "configuration"]


def test_a_label_may_be_given_by_name_or_id_and_a_query_may_repeat_it():
    driven = DrivenSession(None)
    driven.do(driven.session.open([*RAW.items(), ("labels", "dog"), ("labels", "1"), ("token", "secret")], 0))
    assert driven.messages[0]["configuration"]["labels"] == ["Speech", "Dog"]


def test_events_may_be_switched_on_by_name():
    assert DrivenSession({**RAW, "events": "yes"}).messages[0]["configuration"]["events"]["max_gap"] == 0.3


def test_an_event_update_bears_the_new_onset_and_a_retracted_one_says_so():
    driven = DrivenSession({**RAW, "hop": "0.5"})
    driven.audio(np.full(8000, 3000, np.int16))
    driven.answer()
    driven.audio(np.full(40_000, 1000, np.int16))
    driven.answer()
    driven.text(STOP)
    dog = [m for m in driven.of_type("event") if m["label"] == "Dog"]
    assert dog[0]["phase"] == "onset"
    assert dog[-1]["phase"] == "offset"
    wire = [json.loads(text) for text in driven.wire]
    assert all("retracted" not in m or m["retracted"] is True for m in wire)


def test_a_poll_while_the_stream_is_being_finished_only_looks_for_what_is_late():
    driven = DrivenSession()
    driven.second()
    driven.text(STOP)
    driven.poll(driven.now + 1)
    assert driven.close is None
    driven.poll(driven.now + 5)
    assert driven.types[-2:] == ["warning", "summary"]
    assert driven.close.code == 1000


def test_a_session_that_was_drained_before_it_was_opened_stays_closed():
    driven = DrivenSession(None)
    driven.do(driven.session.drain(driven.now))
    assert driven.close.code == 1001
    assert driven.session.open(list(RAW.items()), driven.now) == []


def test_start_may_not_change_the_model_that_ready_has_named():
    models = {"fake": make_spec(), "other": make_spec(name="other")}
    driven = DrivenSession(models=models)
    driven.text('{"type": "start", "top_k": 1}')
    assert driven.close is None
    driven.text('{"type": "start", "model": "other"}')
    assert driven.messages[-1]["param"] == "model"
    assert driven.close.code == 4400


def test_start_may_repeat_the_model_that_ready_has_named():
    driven = DrivenSession()
    driven.text('{"type": "start", "model": "fake"}')
    assert driven.types == ["ready", "configuration"]


def test_sound_that_a_fatal_error_leaves_unscored_counts_as_dropped():
    driven = DrivenSession()
    driven.second(count=3)
    driven.answer(1)
    driven.text("no json")
    assert [(d.reason, d.seconds) for d in driven.dropped] == [("closed", 2.0)]


def test_a_stream_that_is_being_finished_is_not_paused():
    driven = DrivenSession({**RAW, "on_lag": "wait"})
    driven.second(count=12)
    assert driven.session.is_paused(driven.now)
    driven.text(STOP)
    assert not driven.session.is_paused(driven.now)


def test_a_source_that_cannot_be_read_before_any_sound_came_ends_the_stream_with_its_error():
    driven = DrivenSession()
    driven.do(driven.session.receive_audio_end(driven.now, UndecodableAudio("broken")))
    assert driven.types == ["ready", "error"]
    assert driven.close.code == 4415
