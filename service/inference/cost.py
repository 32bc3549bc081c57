"""What a window costs a model on this machine: measured on silence when it is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

from service.inference.runner import Runner

NUM_RUNS = 3

T = TypeVar("T")


class Caller(Protocol):
    """Calls a function in so many of the model's threads at once, and returns what it returned; see `ModelThread`."""

    def __call__(self, function: Callable[[], T], num_lanes: int) -> list[T]:
        """Call it."""
        ...


def measure_cost(runner: Runner, batch_size: int, call_in_lanes: Caller) -> tuple[float, float]:
    """Time runs of one batch size.

    Args:
        runner: The model.
        batch_size: Windows in each run.
        call_in_lanes: Its threads.

    Returns:
        The seconds of a run alone, and the seconds that a run costs while all lanes are busy: less, as they share the machine.
    """
    spec = runner.spec
    waveform = np.zeros((batch_size, spec.window_samples), np.int16)
    lengths = np.full(batch_size, spec.window_samples, np.int64)

    def run() -> tuple[float, float]:
        started = time.perf_counter()
        runner.run(waveform, lengths, embedding=False)
        return started, time.perf_counter()

    def run_often() -> list[tuple[float, float]]:
        return [run() for _ in range(NUM_RUNS)]

    alone = min(ended - started for started, ended in call_in_lanes(run_often, 1)[0])
    if spec.num_lanes == 1:
        return alone, alone
    together = [moments for lane in call_in_lanes(run_often, spec.num_lanes) for moments in lane]
    busy = max(ended for _, ended in together) - min(started for started, _ in together)
    return alone, min(alone, busy / len(together))
