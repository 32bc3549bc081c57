from __future__ import annotations

import csv
import io
import json

from service.answers import ClipAnswer, ErrorBody, EventItem, WindowItem
from service.commands.clip_output import CSV_COLUMNS, CsvOutput, JsonOutput, TableOutput
from service.streaming.messages import TagItem

SPEECH = TagItem(label="Speech", id=0, score=0.9876543)
NARRATION = TagItem(label="Narration, [monologue]", id=3, score=0.25)
PLAIN = ClipAnswer(model="tiny", duration=2.5, tags=(SPEECH, NARRATION))
FULL = ClipAnswer(
    model="tiny",
    duration=2.5,
    tags=(SPEECH,),
    windows=[WindowItem(start=0, end=1, tags=(SPEECH, NARRATION)), WindowItem(start=0, end=2.5, tags=())],
    events=(EventItem(label="Speech", onset=0.5, offset=2.25, peak=0.99),),
    embedding=[0.5, -1.0],
)
ERROR = ErrorBody(code="unreadable", message='No "such" file, sorry')


def test_json_is_one_line_a_file_and_holds_only_what_was_asked() -> None:
    output = JsonOutput()
    plain, full, error = output.answer("ä.wav", PLAIN), output.answer("b", FULL), output.error("c", ERROR)
    assert output.head() == ""
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in (plain, full, error))
    assert list(json.loads(plain)) == ["file", "model", "duration", "tags"]
    assert json.loads(plain)["file"] == "ä.wav"
    assert json.loads(plain)["tags"][0] == {"label": "Speech", "id": 0, "score": 0.9876543}
    assert list(json.loads(full)) == ["file", "model", "duration", "tags", "windows", "events", "embedding"]
    assert list(json.loads(error)) == ["file", "error"]
    assert list(json.loads(error)["error"]) == ["code", "message", "param", "retryable", "retry_after_s"]


def test_csv_quotes_what_needs_it() -> None:
    output = CsvOutput()
    text = output.head() + output.answer('a,"b".wav', FULL) + output.error("c.wav", ERROR)
    rows = list(csv.reader(io.StringIO(text)))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[1:] == [
        ['a,"b".wav', "clip", "0.0", "2.5", "Speech", "0.9876543", ""],
        ['a,"b".wav', "window", "0.0", "1.0", "Speech", "0.9876543", ""],
        ['a,"b".wav', "window", "0.0", "1.0", "Narration, [monologue]", "0.25", ""],
        ['a,"b".wav', "event", "0.5", "2.25", "Speech", "0.99", ""],
        ["c.wav", "error", "", "", "", "", 'No "such" file, sorry'],
    ]


def test_the_table_shows_labels_and_names_as_they_are() -> None:
    text = TableOutput().answer("[bold]x[/bold].wav", PLAIN)
    assert text.splitlines()[0] == "[bold]x[/bold].wav  2.50 s"
    assert "Narration, [monologue]   0.250   █████" in text
    assert "\x1b" not in text


def test_the_table_shows_windows_and_events_where_they_were_asked_for() -> None:
    text = TableOutput().answer("x.wav", FULL)
    lines = [line.split() for line in text.splitlines()]
    assert ["0.00", "1.00", "Speech", "0.988,", "Narration,", "[monologue]", "0.250"] in lines
    assert ["0.00", "2.50"] in lines
    assert ["0.50", "2.25", "Speech", "0.990"] in lines
    assert "onset" not in TableOutput().answer("x.wav", PLAIN)


def test_the_table_leaves_errors_to_standard_error() -> None:
    assert TableOutput().head() + TableOutput().error("x.wav", ERROR) == ""
