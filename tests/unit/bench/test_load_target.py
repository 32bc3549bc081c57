from __future__ import annotations

import os
import subprocess
import sys

from service.bench.processes import read_usage
from service.bench.target import batch_sizes, parse_metrics, total
from service.metrics import Metrics


def test_the_metrics_page_is_read_as_prometheus_writes_it() -> None:
    metrics = Metrics()
    metrics.batch_scored("a", 4)
    metrics.batch_scored("other", 1)
    samples = parse_metrics(metrics.render()[0].decode())
    assert total(samples, "sonotag_windows_scored_total") == 5
    assert total(samples, "sonotag_streams_open") == 0


def test_batches_are_counted_by_size_between_two_readings() -> None:
    metrics = Metrics()
    for size in (1, 1, 4):
        metrics.batch_scored("a", size)
    before = parse_metrics(metrics.render()[0].decode())
    for size in (1, 3, 4, 4, 200):
        metrics.batch_scored("a", size)
    metrics.batch_scored("b", 2)
    after = parse_metrics(metrics.render()[0].decode())
    assert batch_sizes(before, after) == {"1": 1, "2": 1, "4": 3, "inf": 1}
    assert batch_sizes(after, after) == {}


def test_what_a_process_started_counts_as_its_own() -> None:
    code = "import subprocess, sys; subprocess.Popen(['cat'], stdin=-1); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        usage = read_usage(process.pid)
        process.kill()
    assert usage is not None
    assert usage.num_processes == 2
    assert usage.memory_bytes > 1e5
    own = read_usage(os.getpid())
    assert own is not None
    assert own.cpu_seconds > 0


def test_a_process_that_is_not_there_uses_nothing_that_could_be_said() -> None:
    assert read_usage(2**22 + 1) is None
