"""Several processes on one device, each with a session, by what they do in the same time: `python -m bench.gpu.processes`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from typing import Final

from bench.command import run_measurement, write_numbers
from bench.gpu.rates import Rate, Results
from bench.gpu.settings import Settings, add_flags
from bench.gpu.subject import Subject, read_subject

NUMBERS: Final = {"cuda": (1, 2, 4), "cpu": (1, 2)}
ROWS: Final = 8
START_SECONDS: Final = 120.0


def measure_processes(subject: Subject, seconds: float, results: Results) -> Results:
    """Measure each number of processes for a share of some seconds, into the results."""
    rows = min(ROWS, max(subject.batches))
    numbers = NUMBERS[subject.device]
    for number in numbers:
        with results.attempt(f"{number} processes"):
            total = _run_together(subject, rows, number, seconds / (2 * len(numbers)))
            results.rates[f"{number} processes, batch {rows}"] = Rate(total, total, total)
    return results


def _run_together(subject: Subject, rows: int, number: int, seconds: float) -> float:
    """Return the windows a second of all processes, which begin when all are ready."""
    flags = Settings(subject.device, subject.size, (rows,), subject.folder).subject_flags()
    command = [sys.executable, "-m", "bench.gpu.processes", "--worker", "--seconds", str(seconds), *flags]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)]
    try:
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise RuntimeError(f"process {child.pid} does not start")
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        return sum(float(child.communicate(timeout=START_SECONDS + seconds)[0]) for child in children)
    finally:
        for child in children:
            child.kill()
            child.wait()


def work(subject: Subject, seconds: float) -> None:
    """Be one of them: get ready, wait for the word, say how many windows a second were scored."""
    rows = subject.batches[0]
    bound = subject.bind(graphs=False)
    windows = subject.windows(rows)
    bound.run(*windows, embedding=False)
    print("ready", flush=True)
    sys.stdin.readline()
    started, runs = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < seconds or not runs:
        bound.run(*windows, embedding=False)
        runs += 1
    print(runs * rows / max(taken, 1e-9))


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)


def main() -> int:
    """Measure and print what was seen, or be one of the processes."""
    if "--worker" in sys.argv:
        parser = argparse.ArgumentParser()
        _add_flags(parser)
        parser.add_argument("--seconds", type=float)
        args = parser.parse_args()
        work(read_subject(args), args.seconds)
        return 0
    return run_measurement(
        "bench.gpu.processes",
        lambda args: measure_processes(read_subject(args), args.seconds, Results(keep=partial(write_numbers, args.output))),
        seconds=30.0,
        to_numbers=Results.to_numbers,
        to_markdown=Results.to_markdown,
        add_flags=_add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
