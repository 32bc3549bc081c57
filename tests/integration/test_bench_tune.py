"""`sonotag bench --tune` on a model of microseconds, and a service that runs as it was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from bench.throughput import open_as_served
from service import exit_codes
from service.answers import CapacityItem
from service.capacity import read_saved, write_saved
from service.inference.bundle import open_bundle
from service.inference.tuning import Way
from service.settings_source import load_settings
from tests.support.bundles import write_bundle
from tests.support.measurements import make_measurement
from tests.support.process import clean_environ, running
from tests.support.shared import REPOSITORY


def tune(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "bench", *arguments]
    environ = clean_environ(PYTHONPATH=str(REPOSITORY))
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=120)


def test_the_best_way_is_saved_beside_the_limit_and_the_service_runs_so(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    bundle = write_bundle(tmp_path / "bundle")
    write_saved(path, limit=make_measurement())
    flags = ("--bundles", f"linear={bundle}", "--provider", "cpu", "--threads", "2", "--capacity-file", str(path))
    done = tune("--tune", "0.01", "--json", *flags, cwd=tmp_path)
    assert done.returncode == exit_codes.OK, done.stderr
    report = json.loads(done.stdout)
    tried = {tuple(trial["way"].values()) for trial in report["trials"]}
    assert tried == {("fp32", threads, lanes, size) for threads, lanes in ((1, 2), (2, 1), (2, 2)) for size in (1, 2, 4)}
    assert all(min(trial["speeds"]) > 0 and trial["seconds_alone"] > 0 for trial in report["trials"])
    saved = read_saved(path)
    assert (report["saved"], saved.limit) == (str(path), make_measurement())
    assert saved.tuning is not None
    assert saved.tuning.model_dump(mode="json") == report["tuning"]

    # Whichever way was the best: this one is not the rule's, so that it can be told what the service does.
    write_saved(path, tuning=saved.tuning.model_copy(update={"way": Way("fp32", 1, 3, 4)}))
    told, batch_sizes, log = serve(bundle, path, tmp_path)
    assert (told.tuning, told.tuned_at, batch_sizes) == ("measured", saved.tuning.measured_at, [1, 2, 4])
    assert f"3 lane(s), up to 4 window(s) a run (measured by sonotag bench on {saved.tuning.measured_at:%Y-%m-%d})" in log

    settings = {"bundles": f"linear={bundle}", "provider": "cpu", "capacity_file": str(path)}
    for threads, lanes in ((2, 3), (1, 1)):  # what bench.throughput compares the service with runs as the service does
        with closing(open_as_served(open_bundle(bundle), load_settings(settings | {"threads": threads}))) as runner:
            assert runner.spec.num_lanes == lanes

    told, batch_sizes, log = serve(bundle, path, tmp_path, SONOTAG_PRECISION="fp32")
    assert (told.tuning, told.tuned_at, batch_sizes) == ("rule", None, [1])
    assert "it was measured with precision auto, this is fp32" in log
    assert "(by rule)" in log


def serve(bundle: Path, capacity_file: Path, cwd: Path, **settings: str) -> tuple[CapacityItem, list[int], str]:
    """Start a service and return what it says of its model, its batch sizes, and its log."""
    environ = {"SONOTAG_BUNDLES": f"linear={bundle}", "SONOTAG_CAPACITY_FILE": str(capacity_file), "SONOTAG_PROVIDER": "cpu"}
    with running("service", "serve", environ=environ | {"SONOTAG_THREADS": "2"} | settings, cwd=cwd) as service:
        url = service.wait_ready()
        told = CapacityItem.model_validate(httpx.get(url + "/v1/capacity").json()["models"][0])
        batch_sizes = httpx.get(url + "/v1/models/linear").json()["batch_sizes"]
    return told, batch_sizes, service.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--url", "http://127.0.0.1:9"), exit_codes.FAILURE, "it goes without --url"),
        (("--precision", "int8"), exit_codes.START, "holds fp32, not int8 (SONOTAG_PRECISION)"),
        (("--output", "missing/report.json"), exit_codes.FAILURE, "there is no folder missing"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(arguments: tuple[str, ...], code: int, told: str, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    done = tune("--tune", "0.01", "--provider", "cpu", "--bundles", f"linear={bundle}", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_people_get_a_table_and_nothing_is_written_where_they_do_not_want_it(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    flags = ("--bundles", f"linear={bundle}", "--provider", "cpu", "--threads", "1", "--no-save")
    done = tune("--tune", "0.01", *flags, cwd=tmp_path)
    assert done.returncode == exit_codes.OK, done.stderr
    assert "Best: fp32, 1 CPU thread(s), 1 lane(s)" in done.stdout
    assert "Written" not in done.stdout
    in_markdown = tune("--tune", "0.01", "--markdown", *flags, cwd=tmp_path).stdout
    assert sum(line.startswith("| fp32 |") for line in in_markdown.splitlines()) == 3
