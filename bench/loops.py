"""What a live stream costs on uvloop and on asyncio's own event loop: `python -m bench.loops`.

Two services as in `bench.stream_cost`, side by side, one on each loop; they are fed in turns, and each round is begun by the
other.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from bench.command import run_measurement
from bench.stream_cost import FLAGS, SOME, cost_of_each, make_plan
from service.bench.stages import run_streams_stage
from service.bench.target import OwnServer

LOOPS = ("uvloop", "asyncio")


@dataclass(frozen=True, slots=True)
class LoopCost:
    """Processor time of the service in milliseconds for each second of sound, of each of `SOME` streams.

    Attributes:
        rounds: How many.
        uvloop: Its median.
        asyncio: Its median.
        ratio: How many times the former the latter is: the median of what the rounds say.
    """

    rounds: int
    uvloop: float
    asyncio: float
    ratio: float


def measure_loops(rounds: int, measure_seconds: float) -> LoopCost:
    """Measure both in each round.

    Raises:
        SonotagError: A service or the generator failed.
    """
    plan = make_plan(measure_seconds)
    costs: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    with ExitStack() as stack:
        targets = {
            loop: stack.enter_context(OwnServer((*FLAGS, "--loop", loop), module="bench.free_service")) for loop in LOOPS
        }
        for number in range(rounds):
            for loop in LOOPS if number % 2 == 0 else LOOPS[::-1]:
                costs[loop].append(cost_of_each(run_streams_stage(targets[loop], plan, SOME)))
    ratios = [slow / fast for fast, slow in zip(costs["uvloop"], costs["asyncio"], strict=True)]
    return LoopCost(rounds, statistics.median(costs["uvloop"]), statistics.median(costs["asyncio"]), statistics.median(ratios))


def to_markdown(cost: LoopCost) -> str:
    """Return the table."""
    return (
        f"| each of {SOME} streams, medians of {cost.rounds} rounds | ms for a second of sound |\n|---|---:|\n"
        f"| uvloop | {cost.uvloop:.2f} |\n| asyncio | {cost.asyncio:.2f} |\n| ratio | {cost.ratio:.2f} |\n"
    )


def main() -> int:
    """Measure and print the table."""
    return run_measurement(
        "bench.loops",
        lambda args: measure_loops(args.rounds, args.seconds),
        seconds=5.0,
        to_numbers=asdict,
        to_markdown=to_markdown,
    )


if __name__ == "__main__":
    sys.exit(main())
