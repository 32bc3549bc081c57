"""The benchmark of a GPU, run from end to end on the CPU with a model of two layers: `make test ARGS=tests/bench/check_gpu.py`.

Not part of `make test`, which is long enough: it takes half a minute.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.shared import REPOSITORY


def test_the_whole_benchmark_runs_without_a_gpu_and_claims_nothing(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--size", "smallest", "--seconds", "0.01", "--batches", "1,2", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "bench.gpu", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=570)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "gpu.json").read_text())
    ways = ("plain", "bound", "two lanes", "transformers", "transformers with features")
    assert {f"{way} {rows}" for way in ways for rows in (1, 2)} <= measured["rates"].keys()
    assert "2 processes, batch 2" in measured["rates"]
    assert all(rate["least"] > 0 for rate in measured["rates"].values())
    assert set(measured["notes"]) == {"export", "graph", "memory growth over mixed batches"}
    goals = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:11]
    assert all(line.endswith("| unmeasured |") for line in goals)
