"""In what precision, threads, lanes and batches a model runs: by rule, or as `sonotag bench --tune` measured it here.

A measurement holds for what was measured: the same bundle, provider, processor, cores, workers and onnxruntime, and the same
settings. What somebody set is never overruled: SONOTAG_PRECISION is the only precision that is tried then, and SONOTAG_THREADS
the number of threads that are divided. Anything else falls back on the rule, and the log says what differs. Pure: the
measuring is done in `service.bench.tuner`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import onnxruntime
import pydantic

from service.inference.cuda_lanes import NUM_LANES
from service.inference.runner import Precision, Provider
from service.machine import divide_cores

SIZES: Final = (1, 2, 4, 8, 16, 32)
"""Batch sizes that are warmed up, up to the largest that a model has."""
MAX_CPU_LANES: Final = 4
"""By the rule: runs beside each other on a CPU that share its threads, at most. Each has its own working memory; more than two
were not measured."""
MAX_LONE_LANES: Final = 16
"""Lanes that need no other thread than their own, at most, and those that are tried where ways are measured."""
NARROW_HIDDEN_SIZE: Final = 192
"""Up to this hidden size an int8 model's operators are so short that threads wait for each other more than they help:
two of them end a window in 0.85 of the time of one (0.63 and 0.56 with 384 and 768), and two windows take longer in two runs
that share them than in two runs of a thread each (docs/performance.md)."""
NEARLY: Final = 0.03
"""Of a speed: what differs by less is as fast."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a model.

    Attributes:
        precision: In this.
        threads: Of a session, for operators on the CPU; a run's own thread is one of them.
        lanes: Runs beside each other, which share the session's other threads.
        batch_size: The most windows in a run, one of `SIZES`.
    """

    precision: Precision
    threads: Annotated[int, pydantic.Field(ge=1, le=1024)]
    lanes: Annotated[int, pydantic.Field(ge=1, le=1024)]
    batch_size: Literal[1, 2, 4, 8, 16, 32]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes to warm up, rising."""
        return tuple(size for size in SIZES if size <= self.batch_size)

    def __str__(self) -> str:
        return f"{self.precision}, {self.threads} CPU thread(s), {self.lanes} lane(s), up to {self.batch_size} window(s) a run"


class Conditions(pydantic.BaseModel):
    """What a measurement depends on.

    Attributes:
        bundle: sha256 of the bundle's ``bundle.json``, which has those of its other files.
        provider: Where the model runs.
        precision: SONOTAG_PRECISION.
        threads: SONOTAG_THREADS.
        workers: SONOTAG_WORKERS.
        cores: That the service may use.
        processor: What it calls itself.
        onnxruntime: Its version.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    bundle: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    provider: Provider
    precision: Precision | Literal["auto"]
    threads: int | None
    workers: int
    cores: int
    processor: str
    onnxruntime: str = onnxruntime.__version__

    @property
    def num_threads(self) -> int:
        """CPU threads that the model may use: what was set, or its worker's part of the cores."""
        return self.threads or divide_cores(self.cores, self.workers)


class Tuning(pydantic.BaseModel):
    """What was measured, as it is saved.

    Attributes:
        conditions: Of the measurement.
        way: The best one.
        windows_per_second: What it scored, all lanes busy, in one worker.
        measured_at: When.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    conditions: Conditions
    way: Way
    windows_per_second: Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
    measured_at: pydantic.AwareDatetime


@dataclass(frozen=True, slots=True)
class Trial:
    """How one way did.

    Attributes:
        way: It.
        speeds: Windows a second with all its lanes busy, of each round.
        seconds_alone: Of a run of one window with nothing beside it.
    """

    way: Way
    speeds: tuple[float, ...]
    seconds_alone: float

    @property
    def windows_per_second(self) -> float:
        """The median."""
        return statistics.median(self.speeds)

    @property
    def spread(self) -> tuple[float, float]:
        """The slowest and the fastest round; where there are three or more, without the one outlier on each side."""
        ordered = sorted(self.speeds)
        return (ordered[1], ordered[-2]) if len(ordered) > 2 else (ordered[0], ordered[-1])


def choose_by_rule(provider: Provider, precision: Precision, num_threads: int, hidden_size: int) -> Way:
    """Return how a model runs where nothing was measured.

    CPU: runs of one window beside each other use the cores better than a batch does (docs/performance.md), and let nobody wait
    for another one's window. int8 needs it so anyway: it scales the activations of a whole batch together, so that a window's
    scores would move with its neighbours. A narrow model in int8 has a thread for each run: that is fastest where there is much
    to do, and its scores do not depend on the number of cores. All others share the threads, so that a window that has the
    machine for itself is done soon. CUDA: batches of 32 reach what the GPU can do (64 gain 1 to 2 % and double the wait).

    Args:
        provider: Where.
        precision: In what.
        num_threads: CPU threads that the model may use; a GPU leaves the CPU the shapes and nothing else.
        hidden_size: Of the model.
    """
    if provider == "cpu":
        if precision == "int8" and hidden_size <= NARROW_HIDDEN_SIZE:
            return Way(precision, max(1, num_threads - MAX_LONE_LANES + 1), min(num_threads, MAX_LONE_LANES), 1)
        return Way(precision, num_threads, min(num_threads, MAX_CPU_LANES), 1)
    return Way(precision, 1, NUM_LANES if provider == "cuda" else 1, 32)


def list_ways(
    provider: Literal["cpu", "cuda"], precisions: Sequence[Precision], num_threads: int, hidden_size: int
) -> tuple[Way, ...]:
    """Return the ways that are worth measuring, the rule's among them.

    CPU: a session's threads and its lanes' own are together no more than ``num_threads``, from one lane with all of them to as
    many lanes of one thread; only a rule's lanes share more than there is. int8 makes no batches, see `choose_by_rule`.

    Args:
        provider: Where.
        precisions: What may be served there.
        num_threads: CPU threads that the model may use.
        hidden_size: Of the model.
    """
    ways: list[Way] = []
    for precision in precisions:
        rule = choose_by_rule(provider, precision, num_threads, hidden_size)
        if provider == "cuda":
            ways += [Way(precision, 1, lanes, size) for lanes in (1, NUM_LANES) for size in (8, 16, 32)]
            continue
        divided = {(threads, min(MAX_LONE_LANES, num_threads - threads + 1)) for threads in _halves(num_threads)}
        sizes: tuple[Literal[1, 2, 4], ...] = (1,) if precision == "int8" else (1, 2, 4)
        pairs = sorted(divided | {(rule.threads, rule.lanes)})
        ways += [Way(precision, threads, lanes, size) for threads, lanes in pairs for size in sizes]
    return tuple(ways)


def choose_best(trials: Sequence[Trial], rule: Way) -> Trial:
    """Return the rule's way, unless others are faster beyond doubt: then of the fastest ones that which answers a window first.

    Beyond doubt is a way whose slow rounds beat the rule's fast ones. On a machine with other work, where one round has twice
    the windows of the next, none is: noise changes nothing, least of all the precision, and with it the scores. Of those that
    are about as fast, and answer alike as those of one session do, the smaller batch and then the fewer lanes are taken: nobody
    waits for others, and less memory is used.

    Raises:
        StopIteration: The rule's way was not tried.
    """
    known = next(trial for trial in trials if trial.way == rule)
    better = [trial for trial in trials if trial.spread[0] > (1 + NEARLY) * known.spread[1]]
    fastest = max((trial.windows_per_second for trial in better), default=0.0)
    near = [trial for trial in better if trial.windows_per_second >= (1 - NEARLY) * fastest]
    return min(near, key=lambda trial: (trial.seconds_alone, trial.way.batch_size, trial.way.lanes), default=known)


def find_difference(measured: Conditions, here: Conditions) -> str | None:
    """Return why a measurement says nothing of a service, or None where it does."""
    then, now = measured.model_dump(), here.model_dump()
    for name, value in now.items():
        if value != then[name]:
            return f"it was measured with {name} {_short(then[name])}, this is {_short(value)}"
    return None


def _halves(number: int) -> set[int]:
    """Return 1, 2, the half and all of it: every power of two would open too many sessions on a large machine."""
    return {threads for threads in (1, 2, number // 2, number) if 1 <= threads <= number}


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else "none" if value is None else str(value)
