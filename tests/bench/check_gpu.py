"""The benchmark of a GPU, run from end to end on the CPU with a model of two layers: `make gpu-test`.

Not part of `make test`, which is long enough: it takes minutes, without what one more stream costs, which needs no GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.goals import UNMEASURED
from tests.support.shared import REPOSITORY

PARTS = ("machine", "subject", "race", "streams", "throughput-1", "float8", "ways", "processes", "compiled")


def test_the_whole_benchmark_runs_without_a_gpu_and_claims_nothing(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--size", "smallest", "--batches", "2,1", "--budget", "300", "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "bench.gpu", *options, "--parts", ",".join(PARTS)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=570)
    assert done.returncode == 0, done.stderr
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in PARTS}
    assert "need a GPU" in logs["float8"]
    missing = [name for name in PARTS if not (tmp_path / f"{name}.json").is_file()]
    assert missing == ["float8"], {name: logs[name] for name in missing}
    measured = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in PARTS if name != "float8"}

    times = measured["race"]["races"][0]["times"]
    assert [time["name"].partition(",")[0] for time in times] == [
        *("Sonotag fp32", "Sonotag fp32"),
        *("transformers eager fp32", "transformers as called", "transformers eager fp32"),
    ]
    assert all(time["seconds"]["median"] > 0 and time["difference"] < 1e-5 for time in times), times
    beside = measured["compiled"]["races"][0]["times"]
    assert [time["name"] for time in beside] == ["Sonotag fp32", "transformers eager fp32", "torch.compile fp32"]
    assert all(time["seconds"]["median"] > 0 and time["difference"] < 1e-5 for time in beside), beside
    assert measured["ways"]["rates"].keys() == {"plain 2", "plain 1", "bound 2", "bound 1"}
    assert measured["processes"]["rates"].keys() == {"1 processes, batch 2", "2 processes, batch 2"}, logs["processes"]
    assert measured["streams"]["streams"][0]["windows"] > 0
    assert measured["throughput-1"]["served"][0]["windows_per_second"] > 0

    table = done.stdout.partition("## Goals")[2]
    goals = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(goals) == 13
    assert all(f"| {UNMEASURED} (" in line for line in goals)
