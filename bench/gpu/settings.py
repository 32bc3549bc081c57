"""What is measured and how hard, and the arguments of the service's own measurements for it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from service.machine import count_usable_cores

SIZES: Final = ("base", "small", "tiny", "smallest")
BATCHES: Final = (32, 1, 8, 16, 64, 2, 4)
"""Those that goals are about first: what there is no time for is at the end."""
OURS, EAGER, AS_CALLED = "Sonotag", "transformers eager", "transformers as called"
"""How the names of those begin whom the goals compare."""
CORES_A_WORKER: Final = 4
"""The rule of docs/performance.md where one event loop cannot carry the sound."""
CLIP_SECONDS: Final = 30.0
"""Of REST clips on a GPU: shorter ones would measure how fast clips are decoded."""
CLIENTS_A_WORKER: Final = 8
START_SECONDS: Final = {"cuda": 25.0, "cpu": 12.0}
"""What starting a service is allowed for, of its part's time."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one run.

    Attributes:
        device: Where.
        size: Of the model.
        batches: In the order of measuring.
        folder: Of everything that is written.
    """

    device: Literal["cuda", "cpu"]
    size: str
    batches: tuple[int, ...]
    folder: Path

    def file(self, part: str) -> Path:
        """Return where a part writes."""
        return self.folder / f"{part}.json"

    def subject_flags(self) -> tuple[str, ...]:
        """Return the flags of the parts in this package."""
        batches = ",".join(map(str, self.batches))
        return ("--device", self.device, "--size", self.size, "--batches", batches, "--folder", str(self.folder))

    @property
    def _bundle(self) -> str:
        return f"{self.size}={self.folder / 'bundle'}"

    @property
    def stream_workers(self) -> int:
        """Of the service that has many live streams."""
        return max(1, count_usable_cores() // CORES_A_WORKER) if self.device == "cuda" else 1

    @property
    def throughput_workers(self) -> tuple[int, ...]:
        """Of the services that have REST clients, one after another."""
        return tuple(dict.fromkeys((1, self.stream_workers)))

    def throughput(self, workers: int, seconds: float) -> tuple[str, ...]:
        """Return the arguments of `bench.throughput`: two rounds, a bare runner before, between and after the service's."""
        each = max(0.5, (seconds - START_SECONDS[self.device]) / 6)
        clips = f"{CLIP_SECONDS if self.device == 'cuda' else 1.0}:WAV"
        return (
            *("-m", "bench.throughput", "--provider", self.device, "--bundle", self._bundle, "--workers", str(workers)),
            *("--clients", str(CLIENTS_A_WORKER * workers), "--clips", clips),
            *("--rounds", "2", "--seconds", f"{each:.1f}", "--output", str(self.file(f"throughput-{workers}"))),
        )

    def streams(self, seconds: float) -> tuple[str, ...]:
        """Return the arguments of `sonotag bench`: idle streams, then live ones, twice as many until the objective breaks."""
        is_gpu = self.device == "cuda"
        search = max(1.0, seconds - START_SECONDS[self.device])
        limits = ("--first", "500") if is_gpu else ("--first", "8", "--largest", "8")
        return (
            *("-m", "service", "bench", "--provider", self.device, "--bundles", self._bundle),
            *("--workers", str(self.stream_workers), "--slo", "0.5", "--hop", "1", "--seconds", "5" if is_gpu else "1"),
            *("--clients", "0", "--idle-streams", "50", *limits, "--max-seconds", f"{search:.0f}"),
            *("--generators", str(self.stream_workers)),  # a generator that is late breaks the objective, too
            *("--no-save", "--markdown", "--output", str(self.file("streams"))),
        )

    def cost(self, seconds: float) -> tuple[str, ...]:
        """Return the arguments of `bench.stream_cost`, whose service has a model that costs nothing: one round."""
        each = max(2.0, min(10.0, (seconds - START_SECONDS["cpu"]) / 3 - 9))
        return ("-m", "bench.stream_cost", "--rounds", "1", "--seconds", f"{each:.1f}", "--output", str(self.file("cost")))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what says what to measure."""
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batches", type=_numbers, default=BATCHES, metavar="N,N,...", help="in the order of measuring")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"), help="where everything is written (build/gpu)")


def read_settings(args: argparse.Namespace) -> Settings:
    """Return what the flags say."""
    return Settings(args.device, args.size, args.batches, args.folder)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(part) for part in text.split(",")))
