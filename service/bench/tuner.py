"""`sonotag bench --tune`: every way to run the default model that is worth it, measured in turns on this machine.

All sessions are open at once and every way has its turn in each round, which is begun by another one each time: what disturbs
the machine disturbs them alike. What is run is the bundle's golden sound. One worker is measured, with its part of the cores.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from service.bench.lanes import Lanes, place
from service.errors import InvalidParameter
from service.inference.bundle import Bundle, open_bundle
from service.inference.catalog import describe_conditions
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import choose_provider, slow_precisions
from service.inference.runner import Precision
from service.inference.tuning import Trial, Tuning, Way, choose_best, choose_by_rule, list_ways
from service.machine import count_usable_cores
from service.settings import Settings

NUM_ROUNDS = 5
Tell = Callable[[str, float], None]
"""Is told of each round as it begins, and how many seconds it will take at least."""
Session = tuple[Precision, int]
"""What ways have in common that share a session: precision and threads."""


@dataclass(frozen=True, slots=True)
class TuningReport:
    """What was measured.

    Attributes:
        model: The name it is served under.
        tuning: The best way, ready to be saved.
        rule: What the rule would have chosen.
        trials: All ways, in the order in which they were listed.
    """

    model: str
    tuning: Tuning
    rule: Way
    trials: tuple[Trial, ...]

    def to_document(self) -> dict[str, object]:
        """Return it ready for JSON."""
        return {
            "kind": "tuning",
            "model": self.model,
            "tuning": self.tuning.model_dump(mode="json"),
            "rule": asdict(self.rule),
            "trials": [asdict(trial) for trial in self.trials],
        }


def tune(settings: Settings, seconds: float, tell: Tell = lambda stage, seconds: None) -> TuningReport:
    """Measure. Seconds for the embedded model, minutes for a large one on a CPU.

    Args:
        settings: Those that the service will have; what they set is not varied.
        seconds: How long each way is kept busy in each round.
        tell: Is told how it goes.

    Raises:
        InvalidParameter: The models run on TensorRT.
        BundleError: The model cannot be opened, or computes wrong scores.
        ProviderError: The provider cannot be had.
    """
    name, folder = settings.bundles[0]
    bundle = open_bundle(folder)
    provider = choose_provider(settings.provider)
    if provider == "tensorrt":
        # Each engine takes it minutes to compile, and it has one lane and one precision.
        raise InvalidParameter("TensorRT leaves nothing to choose: --tune is for the CPU and for CUDA", param="tune")
    here = describe_conditions(bundle, provider, settings, count_usable_cores())
    precisions = _list_precisions(bundle, provider, settings.precision)
    hidden_size = bundle.manifest.architecture.hidden_size
    ways = list_ways(provider, precisions, here.num_threads, hidden_size)
    with _open_sessions(bundle, provider, ways) as sessions:
        trials = _measure(bundle, sessions, ways, seconds, tell)
    rule = choose_by_rule(provider, precisions[0], here.num_threads, hidden_size)
    best = choose_best(trials, rule)
    tuning = Tuning(
        conditions=here,
        way=best.way,
        windows_per_second=round(best.windows_per_second, 3),
        measured_at=datetime.now(UTC).replace(microsecond=0),
    )
    return TuningReport(name, tuning, rule, trials)


def _list_precisions(
    bundle: Bundle, provider: Literal["cpu", "cuda"], wanted: Precision | Literal["auto"]
) -> tuple[Precision, ...]:
    """Return what the bundle may be served in there, first what the rule takes.

    Raises:
        BundleError: There is nothing, or not what is wanted.
    """
    slow = slow_precisions()
    first = bundle.choose_precision(provider, wanted, slow)
    if wanted != "auto":
        return (first,)
    listed = bundle.manifest.preferred.get(provider, ())
    return (first, *(one for one in listed if one != first and one in bundle.manifest.precisions and one not in slow))


@contextmanager
def _open_sessions(bundle: Bundle, provider: Literal["cpu", "cuda"], ways: Sequence[Way]) -> Iterator[dict[Session, Lanes]]:
    """Open each session that some ways share, with as many lanes and as large batches as the largest of them need.

    Raises:
        BundleError: One cannot be opened.
    """
    largest: dict[Session, Way] = {}
    for way in ways:
        known = largest.setdefault((way.precision, way.threads), way)
        lanes, batch_size = max(known.lanes, way.lanes), max(known.batch_size, way.batch_size)
        largest[way.precision, way.threads] = Way(way.precision, way.threads, lanes, batch_size)
    with ExitStack() as stack:
        sessions: dict[Session, Lanes] = {}
        for session, way in largest.items():
            runner = stack.enter_context(closing(OnnxRunner.open(bundle, provider=provider, way=way)))
            sessions[session] = stack.enter_context(closing(Lanes(runner)))
        yield sessions


def _measure(
    bundle: Bundle, sessions: dict[Session, Lanes], ways: Sequence[Way], seconds: float, tell: Tell
) -> tuple[Trial, ...]:
    golden = bundle.load_golden()
    speeds: dict[Way, list[float]] = {way: [] for way in ways}
    alone: dict[Session, list[float]] = {session: [] for session in sessions}

    def run(session: Session, batch_size: int, num_lanes: int) -> float:
        rows = np.arange(batch_size) % len(golden.lengths)
        return run_busily(sessions[session], golden.waveform[rows], golden.lengths[rows], num_lanes, seconds)

    for number in range(NUM_ROUNDS):
        tell(f"round {number + 1} of {NUM_ROUNDS}, {len(ways)} ways", seconds * (len(ways) + len(sessions)))
        first = number * len(ways) // NUM_ROUNDS
        for session, times in alone.items():
            times.append(1 / run(session, 1, 1))
        for way in (*ways[first:], *ways[:first]):
            speeds[way].append(run((way.precision, way.threads), way.batch_size, way.lanes))
    return tuple(Trial(way, tuple(speeds[way]), statistics.median(alone[way.precision, way.threads])) for way in ways)


def run_busily(lanes: Lanes, waveform: np.ndarray, lengths: np.ndarray, num_lanes: int, seconds: float) -> float:
    """Run one batch again and again in some of a model's lanes at once, and return the windows a second of all together.

    Args:
        lanes: The model's.
        waveform: int16 `[n, samples]`.
        lengths: int64 `[n]`.
        num_lanes: How many of its lanes.
        seconds: How long; each lane makes one run at least, besides a first one that is not counted.
    """
    begin = threading.Barrier(num_lanes)

    def keep_running(_lane: int) -> float:
        batch = place(waveform, lengths, lanes.runner.spec.provider)
        begin.wait()
        lanes.runner.run(*batch, embedding=False)
        started, num_runs, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < seconds or not num_runs:
            lanes.runner.run(*batch, embedding=False)
            num_runs += 1
            elapsed = time.perf_counter() - started
        return num_runs * len(lengths) / elapsed

    return sum(lanes.map(keep_running, range(num_lanes)))
