"""What decoder processes add to a clip: `python -m bench.decoding`. To reach: a median under 5 ms for 5 seconds.

Time on the clock is what a client waits for, and on a machine that does other work it is mostly waiting for a core, twice for
every block. Processor time, of the decoder and of the thread that waits for it, is what the processes themselves cost.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from service.decoders.interface import Decoders, LocalDecoders
from service.decoders.nursery import Nursery
from service.decoders.pool import DecoderLimits, DecoderPool

RATE = 16_000
LIMIT_MS = 5.0
FORMATS = (("WAV", "PCM_16", 48_000), ("WAV", "PCM_16", RATE), ("FLAC", "PCM_16", 44_100), ("OGG", "VORBIS", 44_100))


@dataclass(frozen=True, slots=True)
class Added:
    """Milliseconds for one clip, medians; what is added is the median of the differences within each pair.

    Attributes:
        container: Of the clip.
        sample_rate: Of the clip, Hz.
        here_ms: Time on the clock in this process.
        process_ms: Time on the clock in a decoder that has decoded before.
        added_ms: What that is more.
        added_p90_ms: Its 90th percentile.
        added_cpu_ms: What the decoder and this process use more of a processor.
        first_cpu_ms: What a decoder's first clip uses more than its second: it shares its memory with the process that it is a
            copy of until it writes there.
    """

    container: str
    sample_rate: int
    here_ms: float
    process_ms: float
    added_ms: float
    added_p90_ms: float
    added_cpu_ms: float
    first_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds that a clip took: on the clock, and of processors."""

    clock_ms: float
    cpu_ms: float


def measure_added(seconds: float = 5.0, num_decoders: int = 6, num_pairs: int = 10) -> list[Added]:
    """Decode the same clips here and in a process, in turns: so many pairs with each of so many decoders, after a first one."""
    nursery = Nursery()
    try:
        return [_measure(nursery, *kind, seconds, num_decoders, num_pairs) for kind in FORMATS]
    finally:
        nursery.close()


def measure_start(num_processes: int = 20) -> float:
    """Return the milliseconds that a new decoder process takes, the median."""
    nursery = Nursery()
    try:
        nursery.make(512 * 1024**2).close()
        return statistics.median(_milliseconds(lambda: nursery.make(512 * 1024**2).close()) for _ in range(num_processes))
    finally:
        nursery.close()


def _measure(
    nursery: Nursery, container: str, subtype: str, rate: int, seconds: float, num_decoders: int, num_pairs: int
) -> Added:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(1).standard_normal(round(seconds * rate))
    soundfile.write(file, noise.astype(np.float32), rate, format=container, subtype=subtype)
    local = LocalDecoders()
    limits = DecoderLimits(max_files=1, max_streams=1, timeout_seconds=60.0, memory_bytes=512 * 1024**2, wait_seconds=60.0)
    pairs: list[tuple[Taken, Taken]] = []
    firsts: list[float] = []
    for _ in range(num_decoders):
        pool = DecoderPool(limits, nursery, lambda failure: None)
        try:
            pool.start()
            first, second = _take_there(pool, file), _take_there(pool, file)
            firsts.append(first.cpu_ms - second.cpu_ms)
            pairs += [(_take(local, file), _take_there(pool, file)) for _ in range(num_pairs)]
        finally:
            pool.close()
    added = [there.clock_ms - here.clock_ms for here, there in pairs]
    return Added(
        container,
        rate,
        statistics.median(here.clock_ms for here, _ in pairs),
        statistics.median(there.clock_ms for _, there in pairs),
        statistics.median(added),
        statistics.quantiles(added, n=10)[-1],
        statistics.median(there.cpu_ms - here.cpu_ms for here, there in pairs),
        statistics.median(firsts),
    )


def _take(decoders: Decoders, file: io.BytesIO) -> Taken:
    used = time.thread_time()
    clock_ms = _milliseconds(lambda: _decode(decoders, file))
    return Taken(clock_ms, 1000 * (time.thread_time() - used))


def _take_there(pool: DecoderPool, file: io.BytesIO) -> Taken:
    """Decode in the pool's one process."""
    (pid,) = pool.idle_pids
    used = _cpu_seconds(pid)
    taken = _take(pool, file)
    return Taken(taken.clock_ms, taken.cpu_ms + 1000 * (_cpu_seconds(pid) - used))


def _cpu_seconds(pid: int) -> float:
    """Return what a process has used of a processor, by its own clock. Source: clock_getcpuclockid(3) in glibc."""
    return time.clock_gettime((~pid << 3) | 2)


def _decode(decoders: Decoders, file: io.BytesIO) -> None:
    sound = decoders.open_file(file, channel=None, target_rate=RATE, observe=lambda stage, seconds: None)
    for _ in sound.samples():
        pass
    sound.close()


def _milliseconds(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - started)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.decoding")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the numbers there, as JSON")
    args = parser.parse_args()
    rows, start_ms = measure_added(), measure_start()
    document = json.dumps({"added": [asdict(row) for row in rows], "start_ms": start_ms, "limit_ms": LIMIT_MS})
    if args.output is not None:
        args.output.write_text(document + "\n")
    if args.json:
        print(document)
    else:
        print("| five seconds of | rate | here, ms | in a process | added | its p90 | processor time | its first clip's |")
        print("|---|" + "---:|" * 7)
        for row in rows:
            times = (row.here_ms, row.process_ms, row.added_ms, row.added_p90_ms, row.added_cpu_ms, row.first_cpu_ms)
            print(f"| {row.container} | {row.sample_rate} | " + " | ".join(f"{value:.2f}" for value in times) + " |")
        print(f"\nA new process: {start_ms:.2f} ms.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
