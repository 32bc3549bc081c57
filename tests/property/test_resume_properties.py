"""A stream that is cut anywhere and gone on with says what one that was not cut says."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.streams import RAW, DrivenSession

QUERIES = st.sampled_from(
    [
        RAW,
        {**RAW, "hop": "0.3", "window": "0.7"},
        {**RAW, "hop": "0.25", "labels": "Dog", "top_k": "1", "threshold": "0"},
        {**RAW, "hop": "0.5", "events": '{"onset_threshold": 0.4, "max_gap": 1, "per_label": {"Dog": {"min_duration": 0}}}'},
        {**RAW, "hop": "0.5", "events": "false", "on_lag": "wait"},
    ]
)
UPDATES = (
    '{"type": "flush"}',
    '{"type": "update", "hop": 0.4}',
    '{"type": "update", "labels": ["Music"], "events": {"onset_threshold": 0.3}}',
)
PIECES = st.lists(
    st.one_of(st.tuples(st.integers(0, 3), st.integers(0, 30_000)), st.sampled_from(UPDATES)), min_size=1, max_size=12
)


def tell(driven, piece):
    if isinstance(piece, str):
        driven.text(piece)
    else:
        driven.audio(np.full(piece[1], 1000 * piece[0], np.int16))


def said(messages):
    """What counts of a stream's messages: the lag is the clock's."""
    kept = []
    for message in messages:
        if message["type"] not in ("ready", "error"):
            message = {name: value for name, value in message.items() if name != "lag_ms"}
            kept.append(json.dumps(message, sort_keys=True))
    return kept


@settings(deadline=None, max_examples=60)
@given(query=QUERIES, pieces=PIECES, cuts=st.sets(st.integers(0, 12), max_size=3), unread=st.integers(0, 30))
def test_a_stream_that_is_cut_says_what_one_that_is_not_says(query, pieces, cuts, unread):
    whole = DrivenSession(query)
    for piece in pieces:
        tell(whole, piece)
        whole.answer()
    whole.text('{"type": "stop"}')
    whole.answer()

    driven, received = DrivenSession(query), []
    for index, piece in enumerate(pieces):
        tell(driven, piece)
        driven.answer()
        if index in cuts:
            numbered = [message for message in driven.messages if message.get("seq") is not None]
            reached = numbered[: max(0, len(numbered) - unread)]
            received += reached
            expected_at = driven.session.received_seconds
            last_seq = reached[-1]["seq"] if reached else (received[-1]["seq"] if received else 0)
            driven = driven.break_off(last_seq)
            ready = driven.messages[0]
            assert ready["type"] == "ready"
            assert ready["resumed_at"] == expected_at
            assert ready["missing"] == []
    driven.text('{"type": "stop"}')
    driven.answer()
    received += [message for message in driven.messages if message.get("seq") is not None]
    assert said(received) == said(whole.messages)
    assert [message["seq"] for message in received] == list(range(1, len(received) + 1)), "each once, in order"
    assert driven.close == whole.close


@settings(deadline=None, max_examples=40)
@given(
    query=QUERIES,
    before=st.integers(0, 60_000),
    gap=st.integers(1, 60_000),
    unheard=st.none() | st.integers(0, 60_000),
    after=st.integers(0, 60_000),
    label=st.integers(1, 3),
)
def test_nothing_is_said_of_sound_that_never_came(query, before, gap, unheard, after, label):
    driven = DrivenSession(query)
    driven.audio(np.full(before, 1000 * label, np.int16))
    if unheard is not None:  # a connection that breaks before its `ready` is read
        driven = driven.break_off(0, resume_from=repr((before + min(unheard, gap)) / 16_000))
    driven = driven.break_off(0, resume_from=repr((before + gap) / 16_000))
    ready = driven.messages[0]
    assert ready["missing"] == [[before / 16_000, (before + gap) / 16_000]]
    assert ready["resumed_at"] == (before + gap) / 16_000
    driven.audio(np.full(after, 1000 * label, np.int16))
    driven.answer()
    driven.text('{"type": "stop"}')
    driven.answer()
    for tags in driven.of_type("tags"):
        start, end = round(tags["start"] * 16_000), round(tags["end"] * 16_000)
        assert end <= before or start >= before + gap, "no window holds the gap"
    for event in driven.of_type("event"):
        outside = round(event["offset"] * 16_000) <= before or round(event["onset"] * 16_000) >= before + gap
        assert outside or "max_gap" in query.get("events", "") or gap <= 0.3 * 16_000, "and no event but one that spans it"
    ends = {round(tags["end"] * 16_000) for tags in driven.of_type("tags")}
    if before >= 400:
        assert before in ends, "what came before the gap is scored to its end"
    if after >= 400:
        assert before + gap + after in ends
    assert driven.messages[-1]["duration"] == (before + gap + after) / 16_000 if after else True
