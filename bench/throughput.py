"""How much of what the bare runner can do the service makes of it: `python -m bench.throughput`.

In turns: the runner alone in this process, in all its lanes, in the best of its batch sizes, and a service that REST clients
ask as fast as they are answered, with one kind of clips after the other. Each time the service is compared with what the runner
did right before and right after: a machine that others share is faster in one minute than in the next. What the clients
themselves take of the same cores is not given back to the service. As it comes it is the embedded model on the CPU, and clips
of five seconds, where each window is a request, and of half a minute, as WAV and as FLAC, which needs a decoder. ``--provider
cuda --bundle base=FOLDER`` measures a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from bench.command import run_measurement
from service.bench.lanes import Lanes, place
from service.bench.results import ClipStage
from service.bench.sounds import make_clips, read_sounds
from service.bench.stages import Plan, run_clips_stage
from service.bench.target import OwnServer
from service.capacity import load_saved
from service.inference.bundle import Bundle, Golden, open_bundle
from service.inference.catalog import choose_way, describe_conditions
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import choose_provider
from service.inference.runner import Int16Array, Int64Array, Runner
from service.machine import count_usable_cores
from service.settings import EMBEDDED_BUNDLE, Settings
from service.settings_source import load_settings

SAMPLE_RATE = 16_000
CORES_A_GENERATOR = 8


class Clips(NamedTuple):
    """What clients send.

    Attributes:
        seconds: Of each clip.
        format: WAV, which the service reads itself, or FLAC, which needs a decoder.
    """

    seconds: float
    format: str

    def __str__(self) -> str:
        return f"{self.seconds:g} s of {self.format}"

    @classmethod
    def parse(cls, text: str) -> Clips:
        """Return what ``5:WAV`` says.

        Raises:
            argparse.ArgumentTypeError: It says nothing of the kind.
        """
        seconds, _, format = text.partition(":")
        try:
            return cls(float(seconds), {"WAV": "WAV", "FLAC": "FLAC"}[format.upper()])
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(f"clips are SECONDS:WAV or SECONDS:FLAC, got {text!r}") from None


@dataclass(frozen=True, slots=True)
class Course:
    """What to measure.

    Attributes:
        provider: Where, for both.
        bundle: The model, as SONOTAG_BUNDLES has it: name=folder.
        workers: Of the service.
        clients: That ask at once.
        clips: What they send, one kind after the other.
        rounds: Of all.
        seconds: Of each measurement.
    """

    provider: Literal["cpu", "cuda"] = "cpu"
    bundle: str = str(EMBEDDED_BUNDLE)
    workers: int = 1
    clients: int = 4
    clips: tuple[Clips, ...] = (Clips(5.0, "WAV"), Clips(30.0, "WAV"), Clips(30.0, "FLAC"))
    rounds: int = 5
    seconds: float = 2.0

    def flags(self) -> tuple[str, ...]:
        """Return those of the service."""
        workers = str(self.workers)
        return ("--provider", self.provider, "--log-level", "warning", "--bundles", self.bundle, "--workers", workers)


EMBEDDED = Course()
"""What is measured where no flag says otherwise."""


class Turn(NamedTuple):
    """The service with one kind of clips, and windows a second of the runner alone, around it."""

    stage: ClipStage
    bare: float


@dataclass(frozen=True, slots=True)
class Served:
    """What the service did with one kind of clips, medians of rounds.

    Attributes:
        clips: As a text.
        windows_per_second: That it scored.
        ratio: Of what the runner did alone before and after it, on average.
        client_cores: Processor time over time of the clients, meanwhile.
    """

    clips: str
    windows_per_second: float
    ratio: float
    client_cores: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """What was measured.

    Attributes:
        course: How.
        bare: Windows a second of the runner alone, median of all times.
        served: By the service, for each kind of clips.
    """

    course: Course
    bare: float
    served: tuple[Served, ...]


def measure_throughput(course: Course) -> Throughput:
    """Measure the runner and all kinds of clips in each round.

    Raises:
        SonotagError: The model cannot be had there, or the service or a generator failed.
    """
    settings = load_settings({"bundles": course.bundle, "provider": course.provider})
    sounds = read_sounds([], settings, SAMPLE_RATE)
    plan = make_plan(sounds, course.seconds)
    files = [make_clips(sounds, SAMPLE_RATE, *kind) for kind in course.clips]
    bundle = open_bundle(settings.bundles[0].folder)
    golden = bundle.load_golden()
    runner = open_as_served(bundle, settings)
    lanes = Lanes(runner)
    try:
        with OwnServer(course.flags()) as target:
            bares = [measure_bare(lanes, golden, course.seconds)]
            turns: list[list[Turn]] = [[] for _ in files]
            for _ in range(course.rounds):
                for clips, taken in zip(files, turns, strict=True):
                    stage = run_clips_stage(target, plan, clips, course.clients)
                    bares.append(measure_bare(lanes, golden, course.seconds))
                    taken.append(Turn(stage, (bares[-2] + bares[-1]) / 2))
    finally:
        lanes.close()
        runner.close()
    return Throughput(
        course=course,
        bare=statistics.median(bares),
        served=tuple(_sum_up(str(kind), taken) for kind, taken in zip(course.clips, turns, strict=True)),
    )


def open_as_served(bundle: Bundle, settings: Settings) -> OnnxRunner:
    """Return the model, run as the service runs it with these settings in one worker: by the rule, or as it was measured here.

    Raises:
        BundleError: It cannot be opened.
    """
    provider = choose_provider(settings.provider)
    here = describe_conditions(bundle, provider, settings, count_usable_cores())
    way, _ = choose_way(bundle, bundle.manifest.name, here, load_saved(settings).tuning)
    return OnnxRunner.open(bundle, provider=provider, way=way)


def make_plan(sounds: tuple[Int16Array, ...], seconds: float) -> Plan:
    """Return how REST clients are measured, for so many seconds."""
    return Plan(
        sounds=sounds,
        sample_rate=SAMPLE_RATE,
        hop_seconds=1.0,
        slo_seconds=0.5,
        settle_seconds=0.0,
        measure_seconds=seconds,
        grace_seconds=0.0,
        num_generators=max(1, count_usable_cores() // CORES_A_GENERATOR),
    )


def _sum_up(clips: str, turns: list[Turn]) -> Served:
    return Served(
        clips=clips,
        windows_per_second=statistics.median(turn.stage.server.windows_per_second for turn in turns),
        ratio=statistics.median(turn.stage.server.windows_per_second / turn.bare for turn in turns),
        client_cores=statistics.median(turn.stage.generator_cores for turn in turns),
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
    lines = [
        f"| {course.clients} REST clients, medians of {course.rounds} rounds | windows/s | of bare | clients' cores |",
        "|---|---:|---:|---:|",
        f"| the bare runner | {throughput.bare:.1f} | | |",
    ]
    lines += [
        f"| clips: {one.clips} | {one.windows_per_second:.1f} | {one.ratio:.2f} | {one.client_cores:.2f} |"
        for one in throughput.served
    ]
    return "\n".join(lines) + "\n"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says which model and service."""
    parser.add_argument("--provider", choices=("cpu", "cuda"), default=EMBEDDED.provider, help="where both run (cpu)")
    parser.add_argument("--bundle", default=EMBEDDED.bundle, metavar="NAME=FOLDER", help="the model (the embedded one)")
    parser.add_argument("--workers", type=int, default=EMBEDDED.workers, help="of the service (1)")
    parser.add_argument("--clients", type=int, default=EMBEDDED.clients, help="that ask at once (4)")
    kinds = " ".join(f"{kind.seconds:g}:{kind.format}" for kind in EMBEDDED.clips)
    parser.add_argument("--clips", type=Clips.parse, nargs="+", default=EMBEDDED.clips, metavar="S:FORMAT", help=f"({kinds})")


def read_course(args: argparse.Namespace) -> Course:
    """Return what the flags say."""
    return Course(args.provider, args.bundle, args.workers, args.clients, tuple(args.clips), args.rounds, args.seconds)


def main() -> int:
    """Measure and print the table."""
    return run_measurement(
        "bench.throughput",
        lambda args: measure_throughput(read_course(args)),
        seconds=EMBEDDED.seconds,
        rounds=EMBEDDED.rounds,
        to_numbers=asdict,
        to_markdown=to_markdown,
        add_flags=add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
