"""Our runner beside transformers and a large matrix product, in turns, as `bench.race` has it: `python -m bench.gpu.race`.

One batch at a time says how long a caller waits. What a GPU can do in all shows when it need not wait for the next batch: so
both also take part with several batches on their way, ours in all lanes of the service, theirs queued on the device.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch

from bench.command import run_measurement, write_numbers
from bench.contestants import Absent, Contestant, Device, Facts
from bench.gpu.settings import EAGER, add_flags
from bench.gpu.subject import Subject, read_subject
from bench.ours import open_own
from bench.race import Race, Time, run_race
from bench.transformers_peers import TransformersPeer, dtypes, logits_of, make_eager, make_network
from bench.work import Product, Work, count_work
from export.checkpoint import Checkpoint, load_checkpoint
from export.signals import Batch

IN_FLIGHT = 8
"""Batches on their way at once: more than lanes, so that none waits for its first run."""
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class GpuRaces:
    """What was measured.

    Attributes:
        tolerance: How far our scores may be from transformers' in float32.
        work: Of a window.
        product_size: Side of the matrices of the large product.
        facts: Who took part, in the order of each race's times.
        absent: Who did not, and why.
        races: One for each batch size that there was time for.
        left_out: Batch sizes that there was none for.
    """

    tolerance: float
    work: Work
    product_size: int
    facts: tuple[Facts, ...]
    absent: tuple[Absent, ...] = ()
    races: tuple[Race, ...] = field(default=())
    left_out: tuple[int, ...] = ()

    def to_numbers(self) -> dict[str, object]:
        """Return it ready for JSON."""
        return asdict(self) | {"work": asdict(self.work) | {"exported": self.work.exported, "encoder": self.work.encoder}}


def gather_all(subject: Subject, checkpoint: Checkpoint) -> list[Contestant | Absent]:
    """Return everybody: ours and transformers, one batch at a time and several."""
    found: list[Contestant | Absent] = []
    for batches in (1, IN_FLIGHT):
        found += open_own([subject.bundle_folder], subject.device, batches)
    found += make_eager(checkpoint, subject.device)
    found.append(_make_queued(checkpoint, subject.device))
    return found


def run_races(
    subject: Subject, checkpoint: Checkpoint, found: list[Contestant | Absent], until: float, keep: Callable[[GpuRaces], None]
) -> GpuRaces:
    """Let all run, one batch size after the other, until the time is up.

    Args:
        subject: Gives windows and the scores that are right.
        checkpoint: What all of them run.
        found: Who takes part, and who cannot.
        until: When, by `time.perf_counter`, no other batch size is begun; the first one always is.
        keep: Is given what is known after each batch size: who ends the program then has that.
    """
    contestants = [one for one in found if not isinstance(one, Absent)]
    product = Product(subject.device)
    measured = GpuRaces(
        tolerance=subject.tolerance,
        work=count_work(checkpoint.architecture),
        product_size=product.size,
        facts=tuple(contestant.facts for contestant in contestants),
        absent=tuple(one for one in found if isinstance(one, Absent)),
        left_out=subject.batches,
    )
    for place, rows in enumerate(subject.batches):
        if place and time.perf_counter() > until:
            break
        print(f"batch {rows} ...", file=sys.stderr, flush=True)
        race = run_race(contestants, Batch(*subject.windows(rows)), subject.expected(rows), product, ROUNDS)
        measured = replace(measured, races=(*measured.races, race), left_out=subject.batches[place + 1 :])
        keep(measured)
    return measured


def _make_queued(checkpoint: Checkpoint, device: Device) -> TransformersPeer:
    precision, dtype = list(dtypes(device).items())[-1]
    network = logits_of(make_network(checkpoint, device, dtype, "sdpa"))
    name = f"{EAGER} {precision}, {IN_FLIGHT} batches queued"
    return TransformersPeer(checkpoint, device, network, dtype, Facts(name, precision, "features to scores", batches=IN_FLIGHT))


def to_markdown(measured: GpuRaces) -> str:
    """Return the table: windows a second, their share of the product's rate, how far the scores are off."""
    batches = [race.times[0].batch for race in measured.races]
    lines = [
        "Windows a second (share of the large product's rate; largest difference of a score from float32); medians of "
        f"{ROUNDS} rounds.\n",
        "| | " + " | ".join(f"batch {rows}" for rows in batches) + " |",
        "|---|" + "---:|" * len(batches),
    ]
    for place, facts in enumerate(measured.facts):
        cells = [_cell(race.times[place], race, measured.work, facts) for race in measured.races]
        lines.append(f"| {facts.name}, {facts.counts} | " + " | ".join(cells) + " |")
    products = [f"{race.product.median / 1e12:.3g}" for race in measured.races]
    lines.append(f"| product of {measured.product_size} squared, TFLOP/s | " + " | ".join(products) + " |")
    lines += [f"\nNot in the race: {absent.name}: {absent.reason}." for absent in measured.absent]
    lines += [f"\nBatch {rows} is unmeasured: no time was left." for rows in measured.left_out]
    return "\n".join(lines) + "\n"


def _cell(taken: Time, race: Race, work: Work, facts: Facts) -> str:
    if taken.seconds is None:
        return f"does not run: {taken.error}"
    speed = taken.batch / taken.seconds.median
    share = speed * (work.exported if facts.is_export else work.encoder) / race.product.median
    return f"{speed:,.4g} ({share:.2f}; {taken.difference:.1e})"


def measure(args: argparse.Namespace) -> GpuRaces:
    """Let everybody run; what is known is written after each batch size."""
    until = time.perf_counter() + args.seconds
    subject = read_subject(args)
    checkpoint = load_checkpoint(str(subject.source))
    found = gather_all(subject, checkpoint)
    return run_races(subject, checkpoint, found, until, lambda measured: write_numbers(args.output, measured.to_numbers()))


def main() -> int:
    """Measure and print the table."""
    torch.set_grad_enabled(False)
    return run_measurement(
        "bench.gpu.race",
        measure,
        seconds=120.0,
        to_numbers=lambda measured: measured.to_numbers(),
        to_markdown=to_markdown,
        add_flags=add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
