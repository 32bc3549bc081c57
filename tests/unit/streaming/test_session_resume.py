"""What a session does with the state of a broken one, in the cases that the properties do not come upon."""

from __future__ import annotations

import json

import numpy as np
import pytest

from service.streaming.resumed_stream import MAX_GAP_SECONDS
from tests.support.runners import make_spec
from tests.support.streams import RAW, DrivenSession

TELEPHONE = {"encoding": "s16le", "sample_rate": "8000"}


def broken(query: dict[str, str] = RAW, *, seconds: int = 2) -> DrivenSession:
    """A stream that has been answered for some seconds."""
    driven = DrivenSession(query)
    if seconds:
        driven.second(count=seconds)
        driven.answer()
    return driven


def go_on(state: str | None, query: dict[str, str] | None = None, **options: object) -> DrivenSession:
    """A connection that asks for the stream `token`, whose state is this."""
    kept = {} if state is None else {"token": state}
    return DrivenSession({"resume_token": "token", "last_seq": "0"} | (query or {}), kept=kept, **options)  # type: ignore[arg-type]


def snapshot_of(driven: DrivenSession) -> str:
    return driven.session.snapshot(driven.now)


def test_a_stream_can_be_gone_on_with_once_it_is_configured() -> None:
    driven = DrivenSession({})
    assert not driven.session.is_resumable
    driven.text(json.dumps({"type": "start", "encoding": "s16le", "sample_rate": 16_000}))
    assert driven.session.is_resumable
    assert not driven.session.has_windows
    driven.second()
    assert driven.session.has_windows
    driven.answer()
    assert not driven.session.has_windows


def test_start_may_ask_for_a_stream_too() -> None:
    resumed = DrivenSession({}, kept={"token": snapshot_of(broken())})
    resumed.text(json.dumps({"type": "start", "resume_token": "token", "last_seq": 0}))
    assert resumed.messages[0]["resumed_at"] == 2.0


def test_an_answer_that_nobody_asked_for_changes_nothing() -> None:
    driven = broken()
    assert driven.session.resume(None, driven.now) == []


@pytest.mark.parametrize(
    ("query", "types"),
    [(RAW, ["ready", "error"]), ({}, ["error"])],
    ids=["a query that is complete", "a query that says nothing else"],
)
def test_an_unknown_token_is_no_end_but_a_new_stream(query: dict[str, str], types: list[str]) -> None:
    driven = go_on(None, query)
    assert driven.types == types
    assert driven.of_type("error")[0]["code"] == "resume_unknown"
    assert driven.close is None


def test_a_new_stream_in_place_of_an_unknown_one_must_be_configured_right() -> None:
    driven = go_on(None, RAW | {"window": "9"})
    assert driven.of_type("error")[-1]["code"] == "invalid_parameter"
    assert driven.close is not None
    assert driven.close.code == 4400


def test_the_state_of_another_model_is_not_gone_on_with() -> None:
    other = {"fake": make_spec(source_sha256="1" * 64)}
    assert go_on(snapshot_of(broken()), RAW, models=other).types == ["ready", "error"]


def test_messages_that_were_never_sent_are_not_gone_on_behind() -> None:
    assert go_on(snapshot_of(broken()), RAW | {"last_seq": "99"}).types == ["ready", "error"]


def test_a_gap_that_is_too_long_is_a_new_stream() -> None:
    state = snapshot_of(broken())
    assert go_on(state, {"resume_from": str(2 + MAX_GAP_SECONDS)}).messages[0]["resumed_at"] == 2 + MAX_GAP_SECONDS
    assert go_on(state, RAW | {"resume_from": str(3 + MAX_GAP_SECONDS)}).types == ["ready", "error"]


@pytest.mark.parametrize("part", ["windower", "detector"])
def test_a_state_that_does_not_fit_the_stream_is_not_gone_on_with(part: str) -> None:
    state = json.loads(snapshot_of(broken()))
    if part == "windower":
        state["sound"]["windower"]["hop_samples"] = 0
    else:
        state["sound"]["detector"]["thresholds"] = []
    assert go_on(json.dumps(state), RAW).types == ["ready", "error"]


def test_what_is_no_state_is_not_gone_on_with() -> None:
    assert go_on("{}", RAW).types == ["ready", "error"]


def test_a_stream_that_had_ended_says_the_rest_and_ends_again() -> None:
    driven = broken()
    driven.text('{"type": "stop"}')
    driven.answer()
    assert driven.close is not None
    resumed = go_on(snapshot_of(driven))
    assert resumed.types[-1] == "summary"
    assert resumed.close == driven.close


def test_a_stream_without_sound_begins_where_the_client_still_has_some() -> None:
    resumed = go_on(snapshot_of(broken(seconds=0)), {"resume_from": "1.5"})
    assert (resumed.messages[0]["resumed_at"], resumed.messages[0]["missing"]) == (1.5, [[0.0, 1.5]])
    resumed.second()
    assert resumed.session.received_seconds == 2.5


def test_what_is_missing_is_told_until_the_client_has_sent_something() -> None:
    resumed = go_on(snapshot_of(broken(seconds=1)), {"resume_from": "3"})
    assert not resumed.session.is_confirmed
    again = go_on(snapshot_of(resumed))
    assert (again.messages[0]["resumed_at"], again.messages[0]["missing"]) == (3.0, [[1.0, 3.0]])
    again.text('{"type": "keep_alive"}')
    assert again.session.is_confirmed
    assert go_on(snapshot_of(again)).messages[0]["missing"] == []


def test_resampled_sound_is_sent_again_from_a_whole_second_and_counted_once() -> None:
    driven = broken(TELEPHONE, seconds=2)
    driven.audio(np.full(8_000, 1000, np.int16))
    driven.answer()
    resumed = go_on(snapshot_of(driven))
    assert resumed.messages[0]["resumed_at"] == 2.0
    resumed.audio(np.full(4_000, 1000, np.int16))
    assert resumed.session.received_seconds == 2.5
    resumed.audio(np.full(12_000, 2000, np.int16))
    assert resumed.session.received_seconds == 3.0
