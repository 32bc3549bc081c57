from __future__ import annotations

import pytest

from service.bench.processes import Usage
from service.bench.stages import Sample, server_use

SCORED = 'sonotag_windows_scored_total{model="a"}'


def sample(used_at: float, cpu_seconds: float | None, counted_at: float, windows: float) -> Sample:
    usage = None if cpu_seconds is None else Usage(cpu_seconds, 1000, 2)
    return Sample(usage, used_at, {SCORED: windows, 'sonotag_batch_size_windows_count{model="a"}': windows / 2}, counted_at)


def test_an_answer_that_comes_late_changes_neither_the_processor_time_nor_the_speed() -> None:
    prompt = server_use(sample(10, 5, 10, 0), sample(20, 20, 20, 300), ())
    assert (prompt.cores, prompt.windows_per_second, prompt.mean_batch) == (1.5, 30.0, 2.0)
    late = server_use(sample(10, 5, 19.5, 285), sample(20, 20, 20, 300), ())
    assert (late.cores, late.windows_per_second) == (pytest.approx(1.5), pytest.approx(30.0))


def test_of_a_service_that_is_not_ours_it_is_known_what_it_counts() -> None:
    use = server_use(sample(10, None, 10, 0), sample(20, None, 20, 100), ())
    assert (use.cores, use.memory_bytes, use.windows_per_second) == (None, None, 10.0)
