from __future__ import annotations

import json

import pytest

from service.commands.listen_output import JsonLines, Lines, TextLines
from service.streaming.messages import ErrorMessage, EventMessage, GoingAway, ServerMessage, Summary, TagItem, Tags, Warn

TAGS = Tags(
    seq=1,
    start=0,
    end=1.5,
    coverage=0.3,
    lag_ms=2.0,
    tags=(TagItem(label="Speech", id=0, score=0.98765), TagItem(label="Music", id=1, score=0.1)),
)
ERROR = ErrorMessage(code="inference_failed", message="the model failed", retryable=True, fatal=False)


def event(phase: str, **changes: object) -> EventMessage:
    fields = {"event_id": 1, "label": "Dog", "phase": phase, "onset": 1.0, "offset": 12.5, "peak": 0.75}
    return EventMessage.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (TAGS, Lines("    0.00     1.50  Speech 0.988, Music 0.100\n")),
        (TAGS.model_copy(update={"tags": ()}), Lines("    0.00     1.50  -\n")),
        (event("onset"), Lines("    1.00           began Dog\n")),
        (event("update"), Lines("    1.00           began Dog, corrected\n")),
        (event("offset"), Lines("    1.00    12.50  ended Dog, peak 0.750\n")),
        (event("offset", retracted=True), Lines("    1.00           withdrawn Dog\n")),
        (Warn(code="silence", message="5 s of silence"), Lines(error="sonotag listen: warning: 5 s of silence\n")),
        (ERROR, Lines(error="sonotag listen: the model failed\n")),
        (Summary(duration=3, windows=1, dropped_seconds=0, events=2), Lines("3.00 s heard, 1 window, 2 events\n")),
        (
            Summary(duration=3, windows=2, dropped_seconds=1.5, events=1),
            Lines("3.00 s heard, 2 windows, 1 event, 1.50 s not scored\n"),
        ),
        (GoingAway(), Lines()),
    ],
)
def test_each_message_is_a_line_to_read(message: ServerMessage, expected: Lines) -> None:
    assert TextLines().lines(message) == expected


def test_json_lines_are_the_wire_and_errors_are_said_to_people_too() -> None:
    output, error = JsonLines().lines(TAGS)
    assert output == TAGS.to_json() + "\n"
    assert error == ""
    output, error = JsonLines().lines(ERROR)
    assert json.loads(output)["code"] == "inference_failed"
    assert error == "sonotag listen: the model failed\n"
