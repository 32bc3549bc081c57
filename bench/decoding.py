"""What decoder processes add to a clip: `python -m bench.decoding`. To reach: a median under 5 ms for 5 seconds."""

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
    """Milliseconds for one clip, medians; `added_ms` is the median of the differences within each pair."""

    container: str
    sample_rate: int
    here_ms: float
    process_ms: float
    added_ms: float
    added_p90_ms: float


def measure_added(seconds: float = 5.0, num_pairs: int = 60) -> list[Added]:
    """Decode the same clips here and in a process, in turns."""
    nursery = Nursery()
    limits = DecoderLimits(max_files=1, max_streams=1, timeout_seconds=60.0, memory_bytes=512 * 1024**2, wait_seconds=60.0)
    pool = DecoderPool(limits, nursery, lambda failure: None)
    try:
        pool.start()
        return [_measure(pool, *kind, seconds, num_pairs) for kind in FORMATS]
    finally:
        pool.close()
        nursery.close()


def measure_start(num_processes: int = 20) -> float:
    """Return the milliseconds that a new decoder process takes, the median."""
    nursery = Nursery()
    try:
        nursery.make(512 * 1024**2).close()
        return statistics.median(_milliseconds(lambda: nursery.make(512 * 1024**2).close()) for _ in range(num_processes))
    finally:
        nursery.close()


def _measure(pool: DecoderPool, container: str, subtype: str, rate: int, seconds: float, num_pairs: int) -> Added:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(1).standard_normal(round(seconds * rate))
    soundfile.write(file, noise.astype(np.float32), rate, format=container, subtype=subtype)
    local = LocalDecoders()
    pairs = [
        (_milliseconds(lambda: _decode(local, file)), _milliseconds(lambda: _decode(pool, file))) for _ in range(num_pairs)
    ]
    added = [process - here for here, process in pairs]
    return Added(
        container,
        rate,
        statistics.median(here for here, _ in pairs),
        statistics.median(process for _, process in pairs),
        statistics.median(added),
        statistics.quantiles(added, n=10)[-1],
    )


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
        print("| five seconds of | rate | here, ms | in a process | added | its p90 |\n|---|---:|---:|---:|---:|---:|")
        for row in rows:
            times = (row.here_ms, row.process_ms, row.added_ms, row.added_p90_ms)
            print(f"| {row.container} | {row.sample_rate} | " + " | ".join(f"{value:.2f}" for value in times) + " |")
        print(f"\nA new process: {start_ms:.2f} ms.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
