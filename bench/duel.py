"""Which of several services does more: `python -m bench.duel before=../other-checkout after=.`.

Each contestant is a folder with a virtual environment ``.venv`` in which a Sonotag is installed, and may have variables of its
environment: ``quiet=.,SONOTAG_LOG_LEVEL=error``. All of them run beside each other, and REST clients keep one after the other
busy for a second or two: a machine that is faster in one minute than in the next is so for all. What counts is how much more or
less than the first one each did in the same round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from bench.command import run_measurement
from bench.throughput import EMBEDDED, SAMPLE_RATE, Clips, make_plan
from service.bench.sounds import make_clips, read_sounds
from service.bench.stages import run_clips_stage
from service.bench.target import OwnServer
from service.errors import SonotagError
from service.settings_source import load_settings


class Contestant(NamedTuple):
    """Who takes part.

    Attributes:
        name: In the table.
        folder: Where its ``.venv`` is.
        variables: Of its environment.
    """

    name: str
    folder: Path
    variables: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Contestant:
        """Return what ``name=folder,VARIABLE=value,...`` says.

        Raises:
            argparse.ArgumentTypeError: It says nothing of the kind, or there is no such environment.
        """
        (name, _, folder), *others = (part.partition("=") for part in text.split(","))
        contestant = cls(name, Path(folder), {variable: value for variable, _, value in others})
        if not name or not folder or not contestant.python.exists():
            raise argparse.ArgumentTypeError(f"a contestant is NAME=FOLDER with a .venv in it, got {text!r}")
        return contestant

    @property
    def python(self) -> Path:
        """Its interpreter; the link itself, by which Python finds the environment."""
        return (self.folder / ".venv" / "bin" / "python").absolute()

    def serve(self, flags: Sequence[str]) -> OwnServer:
        """Return its service."""
        return OwnServer(flags, python=self.python, variables=self.variables)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one did.

    Attributes:
        name: Of the contestant.
        windows_per_second: Median of the rounds.
        ratio: Of what the first one did in the same round, the median.
        quartiles: Of these.
    """

    name: str
    windows_per_second: float
    ratio: float
    quartiles: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Duel:
    """What was seen.

    Attributes:
        clips: What clients sent.
        rounds: How many were done.
        standings: In the order of the contestants.
    """

    clips: str
    rounds: int
    standings: tuple[Standing, ...]


def run_duel(contestants: Sequence[Contestant], clips: Clips, rounds: int, seconds: float) -> Duel:
    """Let all of them work in each round; every other round begins with the last one.

    Control-C ends it with the rounds that are done.

    Raises:
        KeyboardInterrupt: None is.
        SonotagError: A service or a generator failed, or two contestants have the same name.
    """
    if len({one.name for one in contestants}) < len(contestants):
        raise SonotagError("contestants need names of their own")
    sounds = read_sounds([], load_settings({"bundles": EMBEDDED.bundle}), SAMPLE_RATE)
    plan = make_plan(sounds, seconds)
    files = make_clips(sounds, SAMPLE_RATE, *clips)
    speeds: dict[str, list[float]] = {one.name: [] for one in contestants}
    with ExitStack() as stack:
        targets = {one.name: stack.enter_context(one.serve(EMBEDDED.flags())) for one in contestants}
        for target in targets.values():  # what is done for the first time takes longer
            run_clips_stage(target, replace(plan, measure_seconds=0.5), files, EMBEDDED.clients)
        try:
            for number in range(rounds):
                for name in list(targets)[:: 1 if number % 2 == 0 else -1]:
                    stage = run_clips_stage(targets[name], plan, files, EMBEDDED.clients)
                    speeds[name].append(stage.server.windows_per_second)
        except KeyboardInterrupt:
            if not all(speeds.values()):
                raise
    return stand(str(clips), speeds)


def stand(clips: str, speeds: Mapping[str, list[float]]) -> Duel:
    """Return how all did in the rounds that all have done.

    Args:
        clips: What clients sent.
        speeds: Windows a second in each round, by name; one round or more each.
    """
    rounds = min(map(len, speeds.values()))
    first = next(iter(speeds.values()))[:rounds]
    return Duel(clips, rounds, tuple(_stand(name, first, own[:rounds]) for name, own in speeds.items()))


def _stand(name: str, first: list[float], own: list[float]) -> Standing:
    ratios = [mine / theirs for theirs, mine in zip(first, own, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Standing(name, statistics.median(own), middle, (low, high))


def to_markdown(duel: Duel) -> str:
    """Return the table."""
    lines = [f"| clips: {duel.clips}, {duel.rounds} rounds | windows/s | of the first (quartiles) |", "|---|---:|---:|"]
    lines += [
        f"| {one.name} | {one.windows_per_second:.1f} | {one.ratio:.3f} ({one.quartiles[0]:.3f} to {one.quartiles[1]:.3f}) |"
        for one in duel.standings
    ]
    return "\n".join(lines) + "\n"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add who takes part, and with what."""
    parser.add_argument("contestants", type=Contestant.parse, nargs="+", metavar="NAME=FOLDER", help="who takes part")
    parser.add_argument("--clips", type=Clips.parse, default=EMBEDDED.clips[0], metavar="S:FORMAT", help="(5:WAV)")


def main() -> int:
    """Measure and print the table."""
    return run_measurement(
        "bench.duel",
        lambda args: run_duel(args.contestants, args.clips, args.rounds, args.seconds),
        seconds=1.5,
        to_numbers=asdict,
        to_markdown=to_markdown,
        add_flags=add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
