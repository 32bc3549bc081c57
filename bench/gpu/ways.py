"""Each of our ways to run a GPU for itself, whether memory grows, and where the time goes: `python -m bench.gpu.ways`.

The numbers decide the form of the GPU path (docs/performance.md); what the goals count is measured by `bench.gpu.race`.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import torch

from bench.command import run_measurement, write_numbers
from bench.gpu.rates import BLOCKS, Results, measure
from bench.gpu.settings import add_flags
from bench.gpu.subject import Subject, read_subject
from service.gpus import GpuReader
from service.inference.bound_run import BoundSession
from service.inference.onnx_runner import OnnxRunner
from service.inference.runner import Int16Array, Int64Array

NUM_WAYS = 3
PROFILED_ROWS, PROFILED_RUNS, NUM_KERNELS = 32, 5, 25
LONGEST_BLOCK = 0.5


def measure_ways(subject: Subject, seconds: float, results: Results) -> Results:
    """Measure everything, in about so many seconds, into the results."""
    block = min(LONGEST_BLOCK, seconds / (NUM_WAYS * len(subject.batches) * BLOCKS * 2))
    _measure_plain(subject, results, block)
    for name, graphs in (("bound", False), ("graph", True)):
        if graphs and subject.device == "cpu":
            results.notes[name] = "CUDA graphs need a GPU"
            continue
        _measure_bound(subject, results, block, name, graphs=graphs)
    with results.attempt("memory growth over mixed batches"):
        results.notes["memory growth over mixed batches"] = _measure_growth(subject)
    if subject.device == "cuda":
        with results.attempt("kernels"):
            results.kernels = _profile_kernels(subject)
    return results


def _measure_plain(subject: Subject, results: Results, block: float) -> None:
    """Time plain calls, waveforms and scores in host memory."""
    with results.attempt("plain"):
        runner = OnnxRunner.open(subject.bundle, provider=subject.device, precision=subject.precision)
        for rows in subject.batches:
            run = partial(runner.run, *subject.windows(rows), embedding=False)
            results.rates[f"plain {rows}"] = measure(run, rows, block)
        runner.close()


def _measure_bound(subject: Subject, results: Results, block: float, name: str, *, graphs: bool) -> None:
    """Time bound buffers, with CUDA graphs or without, after a look at what they compute."""
    with results.attempt(name):
        bound = subject.bind(graphs=graphs)
        for rows in subject.batches:
            windows = subject.windows(rows)
            _check_scores(subject, bound, windows)
            results.rates[f"{name} {rows}"] = measure(partial(bound.run, *windows, embedding=False), rows, block)


def _check_scores(subject: Subject, bound: BoundSession, windows: tuple[Int16Array, Int64Array]) -> None:
    """Stop a measurement of wrong answers."""
    rows = len(windows[1])
    for _ in range(2):  # captured, replayed
        worst = float(np.abs(bound.run(*windows, embedding=False).scores - subject.expected(rows)).max())
        if not worst <= subject.tolerance:
            raise ArithmeticError(f"batch of {rows}: a score is off by {worst:.3g}, allowed is {subject.tolerance:g}")


def _measure_growth(subject: Subject) -> str:
    """Run batches of mixed sizes and tell how much the GPU's memory grew after every size had run."""
    bound = subject.bind(graphs=False)
    batches = [subject.windows(rows) for rows in subject.batches]
    for windows in batches:
        bound.run(*windows, embedding=True)
    reader = GpuReader()
    before = [reading.used_bytes for reading in reader.read()]
    order = np.random.default_rng(3).integers(0, len(batches), 40)
    for place in order:
        bound.run(*batches[place], embedding=bool(place % 2))
    after = [reading.used_bytes for reading in reader.read()]
    if subject.device == "cpu" or not before or before[0] is None or after[0] is None:
        return "unmeasured (no GPU tells its memory)"
    return f"{(after[0] - before[0]) / 2**20:+.1f} MiB over {len(order)} runs"


def _profile_kernels(subject: Subject) -> list[tuple[str, float]]:
    """Return the kernels of a large batch with their milliseconds a run, the longest first."""
    bound = subject.bind(graphs=False)
    windows = subject.windows(min(PROFILED_ROWS, max(subject.batches)))
    bound.run(*windows, embedding=False)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(PROFILED_RUNS):
            bound.run(*windows, embedding=False)
        torch.cuda.synchronize()
    found = [(event.key[:90], event.self_device_time_total / 1e3 / PROFILED_RUNS) for event in profile.key_averages()]
    return sorted(found, key=lambda kernel: -kernel[1])[:NUM_KERNELS]


def main() -> int:
    """Measure and print what was seen."""
    return run_measurement(
        "bench.gpu.ways",
        lambda args: measure_ways(read_subject(args), args.seconds, Results(keep=partial(write_numbers, args.output))),
        seconds=60.0,
        to_numbers=Results.to_numbers,
        to_markdown=Results.to_markdown,
        add_flags=add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
