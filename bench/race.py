"""Everybody in turn, round after round: what disturbs the machine disturbs all of them alike, and nobody the next one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from bench.contestants import Contestant, Run, Scores
from bench.work import Product
from export.signals import Batch
from service.inference.reason import read_reason

MIN_SECONDS = 0.05
"""Of one measurement where nothing else is said: shorter runs are repeated in a row."""
MAX_REPEATS = 200
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some measurements: the median, the quartiles around it, and the least, which a busy machine disturbs least."""

    median: float
    lower: float
    upper: float
    least: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of some values, one or more."""
        lower, median, upper = (float(value) for value in np.percentile(values, (25, 50, 75)))
        return cls(median, lower, upper, min(values))


@dataclass(frozen=True, slots=True)
class Time:
    """One contestant at one batch size.

    Attributes:
        name: The contestant's.
        batch: Windows at a time.
        seconds: For the whole batch; None where it does not run.
        difference: The largest difference of a score from the reference's; None for another model.
        error: Why it does not run.
    """

    name: str
    batch: int
    seconds: Spread | None
    difference: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Race:
    """All of one batch size.

    Attributes:
        times: One for each contestant.
        product: Operations a second of the large matrix product, measured in the same rounds.
    """

    times: tuple[Time, ...]
    product: Spread


def run_race(
    contestants: Sequence[Contestant],
    batch: Batch,
    expected: Scores,
    product: Product,
    rounds: int,
    tell: Tell = lambda _: None,
    min_seconds: float = MIN_SECONDS,
    lasting: float = 0.0,
) -> Race:
    """Let all score a batch in each of some rounds, each round begun by another one, each measurement by a run that does not
    count.

    Args:
        contestants: In the order of the report.
        batch: The windows.
        expected: Scores of the checkpoint, `[batch, labels]`.
        product: Is measured in each round, too.
        rounds: How many, at least.
        tell: Is told who is being prepared, and each round.
        min_seconds: Of one measurement.
        lasting: Seconds in which other rounds are begun: on a machine that others share, many short ones tell more.
    """
    ready: dict[str, tuple[Run, int]] = {}
    errors: dict[str, str] = {}
    differences: dict[str, float] = {}
    shares = {contestant.facts.name: contestant.facts.batches for contestant in contestants}
    for contestant in contestants:
        facts = contestant.facts
        tell(f"batch {len(batch.lengths)}: preparing {facts.name}")
        try:
            run = contestant.prepare(batch)
            scores = run()
            took = _measure(run, 1)
        except Exception as error:  # noqa: BLE001  (of any library; none must end the race)
            errors[facts.name] = read_reason(error)
            continue
        if facts.is_same_model:
            differences[facts.name] = float(np.abs(scores - expected).max())
        ready[facts.name] = (run, max(1, min(MAX_REPEATS, round(min_seconds / took))))
    product.measure()
    taken: dict[str, list[float]] = {name: [] for name in ready}
    rates: list[float] = []
    names = list(ready)
    began = time.perf_counter()
    for number in count():
        if number >= rounds and time.perf_counter() - began >= lasting:
            break
        tell(f"batch {len(batch.lengths)}: round {number + 1}")
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            run, repeats = ready[name]
            run()  # what the one before it has left behind is not counted: threads that still spin, caches
            taken[name].append(_measure(run, repeats) / shares[name])
        rates.append(product.measure())
    times = [
        Time(
            name=contestant.facts.name,
            batch=len(batch.lengths),
            seconds=Spread.of(taken[contestant.facts.name]) if contestant.facts.name in ready else None,
            difference=differences.get(contestant.facts.name),
            error=errors.get(contestant.facts.name, ""),
        )
        for contestant in contestants
    ]
    return Race(tuple(times), Spread.of(rates))


def _measure(run: Run, repeats: int) -> float:
    """Return the mean seconds of a run over some in a row."""
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats
