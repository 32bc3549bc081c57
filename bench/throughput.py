"""How much of what the bare runner can do the service makes of it: `python -m bench.throughput`.

The embedded model on the CPU, in turns: the runner alone in this process, on all cores, in the better of its batch sizes; then
a service that REST clients ask for five-second clips (one window each) as fast as they are answered. What the clients
themselves take of the same cores is not given back to the service.
"""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from bench.command import run_measurement
from service.bench.sounds import make_clips, read_sounds
from service.bench.stages import Plan, run_clips_stage
from service.bench.target import OwnServer, Target
from service.inference.bundle import open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.runner import Int16Array, Int64Array
from service.settings import EMBEDDED_BUNDLE
from service.settings_source import load_settings

SAMPLE_RATE = 16_000
FLAGS = ("--provider", "cpu", "--log-level", "warning", "--bundles", f"{EMBEDDED_BUNDLE.name}={EMBEDDED_BUNDLE.folder}")


@dataclass(frozen=True, slots=True)
class Throughput:
    """Windows a second, medians of rounds; the ratio is the median of what the rounds say.

    Attributes:
        rounds: How many.
        clients: That ask at once.
        bare: The runner alone.
        service: The service.
        ratio: The latter over the former.
        client_cores: Processor time over time of the clients, meanwhile.
    """

    rounds: int
    clients: int
    bare: float
    service: float
    ratio: float
    client_cores: float


def measure_throughput(rounds: int = 3, seconds: float = 4.0, clients: int = 4) -> Throughput:
    """Measure both in each round.

    Raises:
        SonotagError: The service or a generator failed.
    """
    sounds = read_sounds([], load_settings({}), SAMPLE_RATE)
    plan = Plan(
        sounds=sounds,
        sample_rate=SAMPLE_RATE,
        hop_seconds=1.0,
        slo_seconds=0.5,
        settle_seconds=0.0,
        measure_seconds=seconds,
        grace_seconds=0.0,
        num_generators=1,
    )
    clips = make_clips(sounds, SAMPLE_RATE)
    runner = OnnxRunner.open(open_bundle(EMBEDDED_BUNDLE.folder), provider="cpu")
    try:
        with OwnServer(FLAGS) as target:
            pairs = [(measure_bare(runner, seconds), _measure_service(target, plan, clips, clients)) for _ in range(rounds)]
    finally:
        runner.close()
    return Throughput(
        rounds=rounds,
        clients=clients,
        bare=statistics.median(bare for bare, _ in pairs),
        service=statistics.median(served for _, (served, _) in pairs),
        ratio=statistics.median(served / bare for bare, (served, _) in pairs),
        client_cores=statistics.median(cores for _, (_, cores) in pairs),
    )


def measure_bare(runner: OnnxRunner, seconds: float) -> float:
    """Return the windows a second of the best batch size, all lanes of the runner at work, each size for its share of some
    seconds."""
    spec = runner.spec
    golden = runner.bundle.load_golden()
    speeds = []
    with ThreadPoolExecutor(spec.num_lanes) as lanes:
        for rows in spec.batch_sizes:
            places = np.arange(rows) % len(golden.lengths)
            waveform, lengths = np.ascontiguousarray(golden.waveform[places]), golden.lengths[places]
            runner.run(waveform, lengths, embedding=False)
            began = time.perf_counter()
            end = began + seconds / len(spec.batch_sizes)
            counts = [lanes.submit(_run_until, runner, waveform, lengths, end) for _ in range(spec.num_lanes)]
            runs = sum(count.result() for count in counts)
            speeds.append(runs * rows / (time.perf_counter() - began))
    return max(speeds)


def _run_until(runner: OnnxRunner, waveform: Int16Array, lengths: Int64Array, end: float) -> int:
    runs = 0
    while time.perf_counter() < end or not runs:
        runner.run(waveform, lengths, embedding=False)
        runs += 1
    return runs


def to_markdown(throughput: Throughput) -> str:
    """Return the table."""
    return (
        f"| {throughput.clients} REST clients, medians of {throughput.rounds} rounds | windows/s |\n|---|---:|\n"
        f"| the bare runner | {throughput.bare:.1f} |\n"
        f"| the service; its clients took {throughput.client_cores:.2f} cores | {throughput.service:.1f} |\n"
    )


def _measure_service(target: Target, plan: Plan, clips: tuple[bytes, ...], clients: int) -> tuple[float, float]:
    stage = run_clips_stage(target, plan, clips, clients)
    return stage.server.windows_per_second, stage.generator_cores


def main() -> int:
    """Measure and print the table."""
    return run_measurement("bench.throughput", measure_throughput, seconds=4.0, to_numbers=asdict, to_markdown=to_markdown)


if __name__ == "__main__":
    sys.exit(main())
