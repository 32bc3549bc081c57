"""How much of what the bare runner can do the service makes of it: `python -m bench.throughput`.

In turns: the runner alone in this process, in all its lanes, in the best of its batch sizes; then a service that REST clients
ask as fast as they are answered. What the clients themselves take of the same cores is not given back to the service. As it
comes it is the embedded model on the CPU and clips of five seconds (one window each). ``--provider cuda --bundle base=FOLDER``
measures a GPU, where longer clips say more: each costs the processor much the same, and its windows cost the GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import numpy as np

from bench.command import run_measurement
from service.bench.lanes import Lanes, place
from service.bench.sounds import CLIP_SECONDS, make_clips, read_sounds
from service.bench.stages import Plan, run_clips_stage
from service.bench.target import OwnServer, Target
from service.inference.bundle import Golden, open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.runner import Int16Array, Int64Array, Runner
from service.machine import count_usable_cores
from service.settings import EMBEDDED_BUNDLE
from service.settings_source import load_settings

SAMPLE_RATE = 16_000
CORES_A_GENERATOR = 8


@dataclass(frozen=True, slots=True)
class Course:
    """What to measure.

    Attributes:
        provider: Where, for both.
        bundle: The model, as SONOTAG_BUNDLES has it: name=folder.
        workers: Of the service.
        clients: That ask at once.
        clip_seconds: Of each clip.
        rounds: Of both.
        seconds: Of each measurement.
    """

    provider: Literal["cpu", "cuda"] = "cpu"
    bundle: str = str(EMBEDDED_BUNDLE)
    workers: int = 1
    clients: int = 4
    clip_seconds: float = CLIP_SECONDS
    rounds: int = 3
    seconds: float = 4.0

    def flags(self) -> tuple[str, ...]:
        """Return those of the service."""
        workers = str(self.workers)
        return ("--provider", self.provider, "--log-level", "warning", "--bundles", self.bundle, "--workers", workers)


EMBEDDED = Course()
"""What is measured where no flag says otherwise."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Windows a second, medians of rounds; the ratio is the median of what the rounds say.

    Attributes:
        course: What was measured.
        bare: The runner alone.
        service: The service.
        ratio: The latter over the former.
        client_cores: Processor time over time of the clients, meanwhile.
    """

    course: Course
    bare: float
    service: float
    ratio: float
    client_cores: float


def measure_throughput(course: Course) -> Throughput:
    """Measure both in each round.

    Raises:
        SonotagError: The model cannot be had there, or the service or a generator failed.
    """
    settings = load_settings({"bundles": course.bundle})
    sounds = read_sounds([], settings, SAMPLE_RATE)
    plan = Plan(
        sounds=sounds,
        sample_rate=SAMPLE_RATE,
        hop_seconds=1.0,
        slo_seconds=0.5,
        settle_seconds=0.0,
        measure_seconds=course.seconds,
        grace_seconds=0.0,
        num_generators=max(1, count_usable_cores() // CORES_A_GENERATOR),
    )
    clips = make_clips(sounds, SAMPLE_RATE, course.clip_seconds)
    bundle = open_bundle(settings.bundles[0].folder)
    golden = bundle.load_golden()
    runner = OnnxRunner.open(bundle, provider=course.provider)
    lanes = Lanes(runner)
    try:
        with OwnServer(course.flags()) as target:
            pairs = [
                (
                    measure_bare(lanes, golden, course.seconds),
                    _measure_service(target, plan, clips, course.clients),
                )
                for _ in range(course.rounds)
            ]
    finally:
        lanes.close()
        runner.close()
    return Throughput(
        course=course,
        bare=statistics.median(bare for bare, _ in pairs),
        service=statistics.median(served for _, (served, _) in pairs),
        ratio=statistics.median(served / bare for bare, (served, _) in pairs),
        client_cores=statistics.median(cores for _, (_, cores) in pairs),
    )


def measure_bare(lanes: Lanes, golden: Golden, seconds: float) -> float:
    """Return the windows a second of the best batch size, all lanes of a runner at work, each size for its share of some
    seconds.

    Args:
        lanes: Of the runner.
        golden: What is scored.
        seconds: For all sizes together.
    """
    spec = lanes.runner.spec
    speeds = []
    for rows in spec.batch_sizes:
        places = np.arange(rows) % len(golden.lengths)
        batches = [place(golden.waveform[places], golden.lengths[places], spec.provider) for _ in range(len(lanes))]
        began = time.perf_counter()
        end = began + seconds / len(spec.batch_sizes)
        runs = sum(lanes.map(partial(_run_until, lanes.runner, end), batches))
        speeds.append(runs * rows / (time.perf_counter() - began))
    return max(speeds)


def _run_until(runner: Runner, end: float, batch: tuple[Int16Array, Int64Array]) -> int:
    runs = 0
    while time.perf_counter() < end or not runs:
        runner.run(*batch, embedding=False)
        runs += 1
    return runs


def to_markdown(throughput: Throughput) -> str:
    """Return the table."""
    course = throughput.course
    asked = f"{course.clients} REST clients, clips of {course.clip_seconds:g} s"
    return (
        f"| {asked}, medians of {course.rounds} rounds | windows/s |\n"
        "|---|---:|\n"
        f"| the bare runner | {throughput.bare:.1f} |\n"
        f"| the service; its clients took {throughput.client_cores:.2f} cores | {throughput.service:.1f} |\n"
    )


def _measure_service(target: Target, plan: Plan, clips: tuple[bytes, ...], clients: int) -> tuple[float, float]:
    stage = run_clips_stage(target, plan, clips, clients)
    return stage.server.windows_per_second, stage.generator_cores


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says which model and service."""
    parser.add_argument("--provider", choices=("cpu", "cuda"), default=EMBEDDED.provider, help="where both run (cpu)")
    parser.add_argument("--bundle", default=EMBEDDED.bundle, metavar="NAME=FOLDER", help="the model (the embedded one)")
    parser.add_argument("--workers", type=int, default=EMBEDDED.workers, help="of the service (1)")
    parser.add_argument("--clients", type=int, default=EMBEDDED.clients, help="that ask at once (4)")
    parser.add_argument("--clip-seconds", type=float, default=EMBEDDED.clip_seconds, help="of each clip (5)")


def read_course(args: argparse.Namespace) -> Course:
    """Return what the flags say."""
    return Course(args.provider, args.bundle, args.workers, args.clients, args.clip_seconds, args.rounds, args.seconds)


def main() -> int:
    """Measure and print the table."""
    return run_measurement(
        "bench.throughput",
        lambda args: measure_throughput(read_course(args)),
        seconds=4.0,
        to_numbers=asdict,
        to_markdown=to_markdown,
        add_flags=add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
