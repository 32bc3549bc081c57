"""What a live stream costs besides the model, and what one more costs when there are many: `python -m bench.stream_cost`.

The service runs with a model that costs nothing (`bench.free_service`), in a process of its own, and is fed 48 kHz sound, which
it resamples, in pieces of 0.1 s of sound. A thousand streams at real speed, and what feeds them, are more than two cores can
do: then they would measure how a full machine puts work together. So all numbers of streams are fed at `SPEED`, and what is
reported is processor time of the service for each second of sound, which does not depend on how fast it comes.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, dataclass, field

from bench.command import run_measurement
from bench.goals import FEW, MANY
from service.bench.results import StreamStage
from service.bench.sounds import read_sounds
from service.bench.stages import Plan, run_streams_stage
from service.bench.target import OwnServer
from service.settings_source import load_settings

SOME = 100
SPEED = 0.2
"""Seconds of sound in a second: a thousand streams are then 200 s of sound a second."""
SAMPLE_RATE = 48_000
HOP_SECONDS = 1.0
FLAGS = ("--max-streams", "1000000", "--log-level", "warning")


@dataclass(frozen=True, slots=True)
class StreamCost:
    """Processor time of the service in milliseconds for each second of sound: medians of rounds.

    Attributes:
        rounds: How many.
        streams: Of all that is used with `SOME` streams, a share of it.
        more_of_few: Of one more stream, from `FEW` to `SOME`.
        more_of_many: Of one more stream, from `SOME` to `MANY`.
        growth: How many times the former the latter is: the median of what the rounds say; None where that is nonsense, as on
            a machine that does other work.
        broken: What else was seen, by number of streams: streams not taken, windows dropped, sound sent late.
    """

    rounds: int
    streams: float
    more_of_few: float
    more_of_many: float
    growth: float | None
    broken: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether the service took every stream and answered every window: else it was not the work of so many streams."""
        harmless = {"lag", "growing backlog", "the generator was late"}
        return all(reason in harmless for reasons in self.broken.values() for reason in reasons)


def make_plan(measure_seconds: float) -> Plan:
    """Return how each number of streams is measured."""
    return Plan(
        sounds=read_sounds([], load_settings({}), SAMPLE_RATE),
        sample_rate=SAMPLE_RATE,
        hop_seconds=HOP_SECONDS,
        slo_seconds=0.5,
        settle_seconds=1.0,
        measure_seconds=measure_seconds,
        grace_seconds=2.0,
        num_generators=1,
        speed=SPEED,
    )


def measure_cost(
    rounds: int = 3, measure_seconds: float = 5.0, numbers: tuple[int, int, int] = (FEW, SOME, MANY)
) -> StreamCost:
    """Measure every number of streams in each round.

    Raises:
        SonotagError: The service or a generator failed.
    """
    plan = make_plan(measure_seconds)
    with OwnServer(FLAGS, module="bench.free_service") as target:
        stages = [[run_streams_stage(target, plan, number) for number in numbers] for _ in range(rounds)]
    return sum_up(stages)


def sum_up(rounds: list[list[StreamStage]]) -> StreamCost:
    """Return the medians of rounds, each of three rising numbers of streams."""
    more_of_few = [_cost_of_one_more(few, some) for few, some, _ in rounds]
    more_of_many = [_cost_of_one_more(some, many) for _, some, many in rounds]
    growths = [many / few for few, many in zip(more_of_few, more_of_many, strict=True) if few > 0]
    return StreamCost(
        rounds=len(rounds),
        streams=statistics.median(cost_of_each(some) for _, some, _ in rounds),
        more_of_few=statistics.median(more_of_few),
        more_of_many=statistics.median(more_of_many),
        growth=statistics.median(growths) if growths else None,
        broken={stage.streams: stage.broken for stages in rounds for stage in stages if stage.broken},
    )


def cost_of_each(stage: StreamStage) -> float:
    """Return the milliseconds for a second of sound that a stage took, all included, as the share of one of its streams."""
    return 1000 * _cores(stage) / (stage.streams * SPEED)


def to_markdown(cost: StreamCost) -> str:
    """Return the table and what disturbs it."""
    lines = [
        f"| service without a model, {SAMPLE_RATE // 1000} kHz, medians of {cost.rounds} rounds | ms for a second of sound |",
        "|---|---:|",
        f"| each of {SOME} streams, everything included | {cost.streams:.2f} |",
        f"| one more stream, from {FEW} to {SOME} | {cost.more_of_few:.2f} |",
        f"| one more stream, from {SOME} to {MANY} | {cost.more_of_many:.2f} |",
    ]
    lines += [f"\nSeen with {number} streams: {', '.join(reasons)}." for number, reasons in cost.broken.items()]
    return "\n".join(lines) + "\n"


def _cost_of_one_more(few: StreamStage, many: StreamStage) -> float:
    return 1000 * (_cores(many) - _cores(few)) / ((many.streams - few.streams) * SPEED)


def _cores(stage: StreamStage) -> float:
    assert stage.server.cores is not None, "the service is our own"
    return stage.server.cores


def main() -> int:
    """Measure and print the table."""
    return run_measurement(
        "bench.stream_cost",
        lambda args: measure_cost(args.rounds, args.seconds),
        seconds=5.0,
        to_numbers=lambda cost: asdict(cost) | {"is_whole": cost.is_whole},
        to_markdown=to_markdown,
    )


if __name__ == "__main__":
    sys.exit(main())
