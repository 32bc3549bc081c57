"""transformers under torch.compile beside our runner and transformers eager, in turns: `python -m bench.gpu.compiled`.

Compiling takes minutes and no goal is about it, so it comes last. Half of the time goes into looking for the best way to
compile (`bench.compiled`), the rest into races, of as many batch sizes as it is enough for.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass

import torch

from bench.command import run_measurement, write_numbers
from bench.compiled import Trial, make_compiled
from bench.contestants import Absent, Contestant
from bench.gpu.race import GpuRaces, run_races
from bench.gpu.race import to_markdown as races_to_markdown
from bench.gpu.settings import EAGER, add_flags
from bench.gpu.subject import read_subject
from bench.ours import open_own
from bench.transformers_peers import make_eager
from export.checkpoint import load_checkpoint
from export.signals import Batch

TRIAL_ROWS = 8


@dataclass(frozen=True, slots=True)
class CompiledRaces:
    """What was measured.

    Attributes:
        trials: The ways to compile, on batches of `TRIAL_ROWS`.
        races: With the best of them.
    """

    trials: tuple[Trial, ...]
    races: GpuRaces

    def to_numbers(self) -> dict[str, object]:
        """Return it ready for JSON."""
        return {"trials": [asdict(trial) for trial in self.trials], **self.races.to_numbers()}


def measure(args: argparse.Namespace) -> CompiledRaces:
    """Look for the best way to compile, then race it; what is known is written after each batch size."""
    began = time.perf_counter()
    subject = read_subject(args)
    checkpoint = load_checkpoint(str(subject.source))
    compiled, trials = make_compiled(
        checkpoint,
        subject.device,
        Batch(*subject.windows(TRIAL_ROWS)),
        has_time=lambda: time.perf_counter() < began + args.seconds / 2,
    )
    eager = [peer for peer in make_eager(checkpoint, subject.device) if peer.facts.name.startswith(EAGER)]
    found: list[Contestant | Absent] = [*open_own([subject.bundle_folder], subject.device), eager[-1], compiled]

    def keep(measured: GpuRaces) -> None:
        write_numbers(args.output, CompiledRaces(trials, measured).to_numbers())

    return CompiledRaces(trials, run_races(subject, checkpoint, found, began + args.seconds, keep))


def to_markdown(measured: CompiledRaces) -> str:
    """Return the races' table and the ways that were tried."""
    return races_to_markdown(measured.races) + "\n" + "".join(f"- {trial}\n" for trial in measured.trials)


def main() -> int:
    """Measure and print the table."""
    torch.set_grad_enabled(False)
    return run_measurement(
        "bench.gpu.compiled",
        measure,
        seconds=180.0,
        to_numbers=lambda measured: measured.to_numbers(),
        to_markdown=to_markdown,
        add_flags=add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
