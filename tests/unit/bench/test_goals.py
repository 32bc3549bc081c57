"""The table of goals says what a run measured, and nothing that it did not."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.goals import COST, DECODING, FEW, MANY, MODEL, SERVICE, THROUGHPUT, UNMEASURED, read_goals, to_markdown
from bench.stream_cost import SOME, SPEED, StreamCost, sum_up
from service.bench.results import StreamStage
from tests.support.bench_reports import make_report, make_server, make_stage

SERVED = [
    {"clips": "5 s of WAV", "ratio": 0.85, "windows_per_second": 42.5},
    {"clips": "30 s of WAV", "ratio": 0.91, "windows_per_second": 45.5},
]


def stage(streams: int, cost_ms: float, *broken: str) -> StreamStage:
    """A stage in which the service had 0.01 cores for itself, and so much processor time for a second of each stream."""
    cores = 0.01 + streams * SPEED * cost_ms / 1000
    return replace(make_stage(streams, *broken), server=replace(make_server(), cores=cores))


def write_cost(folder: Path, cost: StreamCost) -> None:
    (folder / COST).write_text(json.dumps(asdict(cost) | {"is_whole": cost.is_whole}))


def write_run(folder: Path) -> None:
    times = [
        {"name": "Sonotag fp32", "batch": 1, "seconds": {"median": 0.060}},
        {"name": "Sonotag int8", "batch": 1, "seconds": {"median": 0.030}},
        {"name": "transformers eager fp32", "batch": 1, "seconds": {"median": 0.060}},
        {"name": "torch.compile fp32", "batch": 1, "seconds": None},
    ]
    (folder / MODEL).write_text(json.dumps({"kind": "cpu", "races": [{"times": times}]}))
    (folder / SERVICE).write_text(json.dumps(make_report(make_stage(24), make_stage(25, "lag")).to_document()))
    (folder / THROUGHPUT).write_text(json.dumps({"bare": 50.0, "served": SERVED}))
    write_cost(folder, sum_up([[stage(FEW, 1.5), stage(SOME, 1.5), stage(MANY, 1.5, "the generator was late")]]))
    (folder / DECODING).write_text(json.dumps({"added": [{"added_ms": 1.2}, {"added_ms": 6.0}], "limit_ms": 5.0}))


def test_a_run_that_measured_everything_says_of_each_goal_whether_it_was_reached(tmp_path: Path) -> None:
    write_run(tmp_path)
    goals = read_goals(tmp_path)
    assert [goal.is_reached for goal in goals] == [True, False, True, True, True, True, True, True, False]
    text = to_markdown(goals)
    for told in (
        "int8: 2.00 times (batch 1); fp32: 1.00 times (batch 1)",
        "0.85 (42.5 of 50.0 windows/s)",
        "0.91 (45.5 of 50.0 windows/s)",
        "24 on 2 cores",
        "0.035 MB",
        "0.600 MB",
    ):
        assert f"| {told} |" in text
    assert "| 1.00 times (1.50 to 1.50 ms) | reached |" in text
    assert "| 6.00 ms | missed |" in text


def test_an_empty_folder_leaves_every_row_unmeasured(tmp_path: Path) -> None:
    goals = read_goals(tmp_path)
    assert {(goal.measured, goal.is_reached) for goal in goals} == {(UNMEASURED, None)}
    assert to_markdown(goals).count(f"| {UNMEASURED} |") == len(goals) == 8


def test_no_stream_at_all_is_a_missed_goal_and_no_gap(tmp_path: Path) -> None:
    (tmp_path / SERVICE).write_text(json.dumps(make_report(make_stage(24, "lag"), largest=None).to_document()))
    streams = read_goals(tmp_path)[2]
    assert (streams.measured, streams.is_reached) == ("0 on 2 cores", False)


def test_the_cost_of_one_more_stream_is_what_the_service_uses_more(tmp_path: Path) -> None:
    rounds = [[stage(FEW, 1.5), stage(SOME, 1.5), stage(MANY, cost)] for cost in (1.5, 3.0, 4.5)]
    cost = sum_up(rounds)
    assert cost.more_of_few == pytest.approx(1.5)
    assert cost.streams == pytest.approx(1.5 + 1000 * 0.01 / (SOME * SPEED))
    assert cost.growth == pytest.approx(cost.more_of_many / 1.5)
    assert 2 < cost.growth < 2.2
    write_cost(tmp_path, cost)
    assert read_goals(tmp_path)[5].is_reached is False


def test_streams_that_were_not_taken_measure_nothing(tmp_path: Path) -> None:
    write_cost(tmp_path, sum_up([[stage(FEW, 1.5), stage(SOME, 1.5), stage(MANY, 1.5, "4 streams not taken", "lag")]]))
    assert [goal.is_reached for goal in read_goals(tmp_path)[5:7]] == [None, None]
    assert read_goals(tmp_path)[5].measured == f"{UNMEASURED}: 4 streams not taken, lag"
