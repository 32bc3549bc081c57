"""A stage of the benchmark that fails costs nothing of what the others measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path

import pytest

from service import exit_codes
from service.bench.benchmark import Course, run_benchmark
from service.bench.target import Target, TargetError
from tests.support.app_server import AppServer, serving
from tests.support.command import run_sonotag
from tests.support.load_plan import PLAN as LONGER_PLAN
from tests.support.nginx import running_nginx
from tests.support.runners import FakeRunner
from tests.support.shared import REPOSITORY

PLAN = replace(LONGER_PLAN, settle_seconds=0.2, measure_seconds=0.4, grace_seconds=0.2, num_generators=1)


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serving(FakeRunner(keeps_calls=False)) as server:
        yield server


class FalteringTarget(Target):
    """A service that does not tell its metrics in some stages, as one that has too much to do.

    Args:
        url: Where it is.
        ill: The numbers of these stages, from 0.
    """

    def __init__(self, url: str, ill: Set[int]) -> None:
        super().__init__(url)
        self._ill = ill
        self.stages: list[str] = []

    def tell(self, stage: str, _seconds: float) -> None:
        """Note that a stage begins."""
        self.stages.append(stage)

    def read_metrics(self) -> dict[str, float]:
        """Read them, or fail."""
        if len(self.stages) - 1 in self._ill:
            raise TargetError("no answer from /metrics")
        return super().read_metrics()


def test_a_search_ends_where_a_stage_fails_and_the_clips_are_measured_all_the_same(server: AppServer) -> None:
    target = FalteringTarget(server.url, {1})
    report = run_benchmark(target, PLAN, Course(first=1, clients=(1,)), target.tell)
    assert target.stages == ["1 live streams", "2 live streams", "1 REST clients"]
    assert [(failed.stage, failed.reason) for failed in report.failed] == [("2 live streams", "no answer from /metrics")]
    assert [stage.streams for stage in report.streams] == [1]
    assert [stage.clients for stage in report.clips] == [1]
    assert not report.is_limit
    assert report.to_measurement() is None


def test_of_the_numbers_that_were_asked_for_each_is_tried(server: AppServer) -> None:
    target = FalteringTarget(server.url, {0, 2})
    report = run_benchmark(target, PLAN, Course(streams=(2, 1), clients=(1,)), target.tell)
    assert [failed.stage for failed in report.failed] == ["2 live streams", "1 REST clients"]
    assert [stage.streams for stage in report.streams] == [1]


def test_where_every_stage_fails_there_is_no_report(server: AppServer) -> None:
    target = FalteringTarget(server.url, {0, 1})
    with pytest.raises(TargetError, match="no answer from /metrics"):
        run_benchmark(target, PLAN, Course(first=1, clients=(1,)), target.tell)
    assert target.stages == ["1 live streams", "1 REST clients"]


def test_the_command_reports_what_there_is_says_what_failed_and_ends_with_a_failure(server: AppServer, tmp_path: Path) -> None:
    """A proxy that closes the connections of clips, and passes on everything else."""
    without_clips = "= /v1/classify { return 444; } location /"
    flags = ("--streams", "1", "--clients", "1,2", "--idle-streams", "0")
    sound = ("--sound", str(REPOSITORY / "examples" / "guitar.ogg"))
    times = ("--seconds", "0.4", "--hop", "0.2", "--slo", "0.9", "--max-lag-seconds", "0.1")
    output = tmp_path / "report.json"
    with running_nginx(tmp_path, server.url.removeprefix("http://"), location=without_clips) as url:
        done = run_sonotag("bench", "--url", url, *flags, *sound, *times, "--markdown", "--output", str(output), cwd=tmp_path)
    assert done.code == exit_codes.FAILURE
    report = json.loads(output.read_text())
    assert [(stage["opened"], stage["failures"]) for stage in report["streams"]] == [(1, [])]
    assert report["clips"] == []
    assert [failed["stage"] for failed in report["failed"]] == ["1 REST clients", "2 REST clients"]
    for failed in report["failed"]:
        assert failed["reason"].startswith("a load generator failed: Connection")
        assert f"- {failed['stage']} measured nothing: {failed['reason']}." in done.output
        assert f"sonotag bench: {failed['stage']}: {failed['reason']}" in done.errors
