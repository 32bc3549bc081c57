from __future__ import annotations

import io
import json
import re
from dataclasses import replace

from rich.console import Console

from service.bench.report import print_report, summarize, to_markdown
from service.bench.results import FailedStage
from tests.support.bench_reports import make_report, make_stage

STAGES = (make_stage(32, "lag", "windows dropped"), make_stage(24))


def test_the_tables_show_every_stage_in_the_order_of_its_streams() -> None:
    report = make_report(*STAGES)
    markdown = to_markdown(report)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line.startswith("|")]
    streams = [row for row in rows if row[0] in {"24", "32"}]
    assert [row[0] for row in streams] == ["24", "32"]
    assert [row[-1] for row in streams] == ["kept", "lag, windows dropped"]
    assert [row[3] for row in streams] == ["99", "99"], "the 99th percentile of 1 to 100 ms"
    assert [row[4] for row in streams] == ["2", "2"], "by how much the lag grew"
    assert streams[1][6] == "3 of 320"
    assert "2 x 503" in markdown
    assert {len(row) for row in rows if len(row) > 9} == {13}


def test_a_terminal_shows_the_same_numbers() -> None:
    file = io.StringIO()
    print_report(make_report(*STAGES), Console(file=file, width=160))
    shown = file.getvalue()
    assert "24 live streams at hop 1 s keep the objective (p99 lag under 0.5 s, no growing backlog, nothing dropped)." in shown
    assert "Memory of an idle stream: 0.035 MB." in shown
    assert "Memory of a live stream: 0.600 MB (stages before the first overload)." in shown
    assert re.search(r"│ +32 │", shown)


def test_a_number_that_is_no_limit_is_not_called_one() -> None:
    assert "8 or more live streams" in summarize(make_report(make_stage(8), largest=8, is_limit=False))[1]
    assert summarize(make_report(make_stage(4, "lag"), largest=None))[1].startswith("No number of live streams")


def test_a_stage_that_failed_is_named_with_the_reason() -> None:
    report = replace(make_report(*STAGES), failed=(FailedStage("4 REST clients", "the connection was closed"),))
    assert "- 4 REST clients measured nothing: the connection was closed.\n" in to_markdown(report)
    assert report.to_document()["failed"] == ({"stage": "4 REST clients", "reason": "the connection was closed"},)


def test_only_a_limit_becomes_a_measurement() -> None:
    measurement = make_report(*STAGES).to_measurement()
    assert measurement is not None
    assert (measurement.streams, measurement.windows_per_second, measurement.workers) == (24, 33.0, 1)
    assert make_report(make_stage(8), largest=8, is_limit=False).to_measurement() is None
    assert make_report(make_stage(4, "lag"), largest=None).to_measurement() is None


def test_programs_get_everything_as_json() -> None:
    document = json.loads(json.dumps(make_report(*STAGES).to_document()))
    assert document["kind"] == "service"
    assert document["measured_at"] == "2026-11-24T12:00:00+00:00"
    assert document["streams"][0]["broken"] == ["lag", "windows dropped"]
    assert document["streams"][1]["server"]["batches"] == {"1": 8, "2": 8}
