"""The comparison of JSON libraries compares what is the same."""

from __future__ import annotations

import json

from bench.messages import OURS, list_writers, make_messages, measure_writing, to_data, to_markdown


def test_every_library_writes_the_same_messages() -> None:
    for message in make_messages().values():
        for write, takes_data in list_writers().values():
            assert json.loads(write(to_data(message) if takes_data else message)) == json.loads(message.to_json())


def test_every_message_is_measured_with_every_library() -> None:
    rows = measure_writing(1)
    assert [row.message for row in rows] == list(make_messages())
    assert all(list(row.microseconds) == list(list_writers()) for row in rows)
    table = to_markdown(rows).splitlines()
    assert len(table) == 2 + len(list_writers())
    assert table[2].startswith(f"| {OURS} |")
