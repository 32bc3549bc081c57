from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.load.account import GOOD, Refused, Wrong
from tests.load.verdicts import (
    Heard,
    join_resumed,
    judge_batch,
    judge_clip,
    judge_lines,
    judge_stream,
    pause_before_resuming,
)

Message = dict[str, Any]
HEARD = Heard(seconds=3.5, label="Speech")
SPEECH = [{"label": "Speech", "score": 0.9}, {"label": "Dog", "score": 0.2}]
DOG = SPEECH[::-1]
BUSY = {"code": "queue_full", "retryable": True}
NO_SOUND = {"code": "unsupported_audio", "retryable": False}
CLIP = {"duration": 3.5, "tags": SPEECH}


def tags(start: float, end: float) -> Message:
    return {"type": "tags", "start": start, "end": end, "tags": SPEECH}


def lag(start: float, end: float) -> Message:
    return {"type": "warning", "code": "lag", "dropped_from": start, "dropped_to": end}


def summary(windows: int, dropped: float = 0.0) -> Message:
    return {"type": "summary", "duration": 3.5, "windows": windows, "dropped_seconds": dropped}


def numbered(*messages: Message) -> list[Message]:
    """Return what a stream is told whose window is 2 s and whose hop is 1 s."""
    ready = {"type": "ready", "configuration": {"window": 2.0, "hop": 1.0}}
    return [ready, *({**message, "seq": seq} for seq, message in enumerate(messages, 1))]


WHOLE = (tags(0, 1), tags(0, 2), tags(1, 3), tags(1.5, 3.5), summary(4))


def test_a_stream_whose_windows_tell_of_all_that_was_sent_is_answered() -> None:
    assert judge_stream(numbered(*WHOLE), 1000, HEARD) == GOOD
    announced = (tags(0, 1), lag(1, 3), tags(1.5, 3.5), summary(2, dropped=2.0))
    assert judge_stream(numbered(*announced), 1000, HEARD) == GOOD
    last = (tags(0, 1), tags(0, 2), lag(2, 3.5), summary(2, dropped=1.5))
    assert judge_stream(numbered(*last), 1000, HEARD) == GOOD


@pytest.mark.parametrize(
    "told",
    [
        pytest.param((tags(0, 1), tags(1, 3), tags(1.5, 3.5), summary(3)), id="a window is lost"),
        pytest.param((tags(0, 2), tags(1, 3), tags(1.5, 3.5), summary(3)), id="the first is lost"),
        pytest.param((tags(0, 1), tags(0, 2), tags(1, 3), summary(3)), id="the last is lost"),
        pytest.param((summary(0),), id="all are lost"),
        pytest.param((tags(0, 1), tags(0, 1), *WHOLE[1:4], summary(5)), id="a window comes twice"),
        pytest.param((WHOLE[1], WHOLE[0], *WHOLE[2:]), id="the order is wrong"),
        pytest.param((tags(0, 1), lag(1, 2), tags(1.5, 3.5), summary(2, dropped=1.0)), id="more is lost than announced"),
        pytest.param((tags(0, 1), lag(2, 3), tags(1.5, 3.5), summary(2, dropped=1.0)), id="something else is announced"),
        pytest.param((tags(0, 1), tags(0, 2), tags(0, 3), tags(1.5, 3.5), summary(4)), id="a window is of other sound"),
        pytest.param((*WHOLE[:2], {**WHOLE[2], "tags": DOG}, *WHOLE[3:]), id="a window has the wrong label"),
        pytest.param((*WHOLE[:2], {**WHOLE[2], "tags": []}, *WHOLE[3:]), id="a window has no label"),
        pytest.param((*WHOLE[:4], {**WHOLE[4], "duration": 3.0}), id="the summary has less sound"),
        pytest.param((*WHOLE[:4], summary(3)), id="the summary has fewer windows"),
        pytest.param((*WHOLE[:4], summary(4, dropped=1.0)), id="the summary knows of drops that nobody announced"),
        pytest.param(WHOLE[:4], id="there is no summary"),
    ],
)
def test_a_stream_that_was_told_less_or_something_else_is_wrong(told: tuple[Message, ...]) -> None:
    with pytest.raises(Wrong):
        judge_stream(numbered(*told), 1000, HEARD)


def test_a_message_that_is_missing_or_comes_twice_is_wrong() -> None:
    with pytest.raises(Wrong, match="numbers"):
        judge_stream([*numbered(*WHOLE[:2]), *numbered(*WHOLE)[4:]], 1000, HEARD)
    with pytest.raises(Wrong, match="numbers"):
        judge_stream([*numbered(*WHOLE), numbered(*WHOLE)[-1]], 1000, HEARD)


def test_a_stream_may_be_refused_but_not_after_wrong_answers() -> None:
    busy = {"type": "error", "fatal": True, **BUSY}
    away = {"type": "going_away"}
    for code, last in [(4503, busy), (1001, away)]:
        with pytest.raises(Refused):
            judge_stream(numbered(*WHOLE[:2], last), code, HEARD)
        with pytest.raises(Wrong):
            judge_stream(numbered(WHOLE[0], {**WHOLE[1], "tags": DOG}, last), code, HEARD)
    with pytest.raises(Refused):
        judge_stream([{**busy, "seq": None}], 4503, HEARD)
    for code, last in [(1011, {**busy, "retryable": False}), (4503, {**busy, "retryable": False}), (1001, tags(1, 3))]:
        with pytest.raises(Wrong):
            judge_stream(numbered(*WHOLE[:2], last), code, HEARD)


@pytest.mark.parametrize("code", [1006, 1005, None])
def test_a_stream_that_ends_without_a_close_is_cut(code: int | None) -> None:
    for told in ((), WHOLE[:2], WHOLE):
        with pytest.raises(ConnectionResetError):
            judge_stream(numbered(*told), code, HEARD)
    with pytest.raises(ConnectionResetError):
        judge_stream([], code, HEARD)


def test_a_resumed_stream_is_judged_as_one() -> None:
    first, second = numbered(*WHOLE)[:3], numbered(*WHOLE)[3:]
    again = {"type": "ready", "resumed_at": 2.0, "missing": []}
    assert judge_stream(join_resumed(first, [again, *second]), 1000, HEARD) == GOOD
    with pytest.raises(Wrong, match="numbers"):
        judge_stream(join_resumed(first, [again, *second[1:]]), 1000, HEARD)
    with pytest.raises(Wrong, match="missing"):
        join_resumed(first, [{**again, "missing": [[2.0, 2.5]]}, *second])
    unknown = {"type": "error", "code": "resume_unknown", "fatal": False, "seq": 1}
    with pytest.raises(ConnectionResetError):
        join_resumed(first, [{**again, "missing": None}, unknown])
    with pytest.raises(ConnectionResetError):
        judge_stream(join_resumed(first, []), 1006, HEARD)


def test_a_stream_that_cannot_be_had_now_is_come_for_again() -> None:
    busy = {"type": "error", "code": "unavailable", "fatal": True, "retryable": True, "retry_after_s": 1.0}
    assert pause_before_resuming([busy]) == 1.0
    assert pause_before_resuming([{**busy, "code": "queue_full"}]) is None
    assert pause_before_resuming(numbered(*WHOLE)) is None


def test_a_clip_has_its_label_first_and_its_length() -> None:
    assert judge_clip(CLIP, HEARD) == GOOD
    for change in ({"tags": DOG}, {"tags": []}, {"duration": 5.0}):
        with pytest.raises(Wrong):
            judge_clip({**CLIP, **change}, HEARD)


def test_a_batch_has_an_answer_or_an_error_for_each_file() -> None:
    files = [HEARD, None, HEARD]
    assert judge_batch([CLIP, {"error": NO_SOUND}, CLIP], files) == GOOD
    for results in ([{"error": BUSY}, {"error": NO_SOUND}, CLIP], [CLIP, {"error": BUSY}, CLIP]):
        with pytest.raises(Refused):
            judge_batch(results, files)
    for results in (
        [CLIP, {"error": NO_SOUND}],
        [CLIP, CLIP, {"error": NO_SOUND}],
        [CLIP, CLIP, CLIP],
        [CLIP, {"error": {"code": "internal", "retryable": False}}, CLIP],
        [{**CLIP, "tags": DOG}, {"error": BUSY}, CLIP],
    ):
        with pytest.raises(Wrong):
            judge_batch(results, files)


def lines() -> list[Message]:
    windows = [
        {**window, "type": "window", "progress": done} for window, done in zip(WHOLE[:4], (0.2, 0.5, 0.5, 1), strict=True)
    ]
    return [*windows, {"type": "summary", **CLIP}]


def test_an_answer_in_lines_has_every_window_and_the_whole() -> None:
    assert judge_lines(lines(), HEARD, window=2.0, hop=1.0) == GOOD
    with pytest.raises(Refused):
        judge_lines([*lines()[:2], {"type": "error", "error": BUSY}], HEARD, window=2.0, hop=1.0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told.pop(1),
        lambda told: told.pop(3),
        lambda told: told.pop(),
        lambda told: told[2].update(progress=0.1),
        lambda told: told[3].update(progress=1.5),
        lambda told: told[1].update(tags=DOG),
        lambda told: told[4].update(tags=DOG),
        lambda told: told[4].update(duration=1.0),
        lambda told: told.append({"type": "error", "error": NO_SOUND}),
        lambda told: told.insert(0, told[-1]),
    ],
)
def test_an_answer_in_lines_that_lacks_something_is_wrong(spoil: Callable[[list[Message]], object]) -> None:
    told = copy.deepcopy(lines())
    spoil(told)
    with pytest.raises(Wrong):
        judge_lines(told, HEARD, window=2.0, hop=1.0)
