"""The whole benchmark of a service: idle streams, live streams until the objective breaks, then REST clients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from typing import TypeVar

from service.bench.generator import GeneratorError
from service.bench.results import ClipStage, FailedStage, StreamStage
from service.bench.search import next_number
from service.bench.sounds import make_clips
from service.bench.stages import WARM_UP_SECONDS, Plan, run_clips_stage, run_streams_stage
from service.bench.target import ModelFacts, Target, TargetError
from service.capacity import Measurement
from service.machine import count_usable_cores, read_processor_name
from service.release import read_version

StageT = TypeVar("StageT")
Tell = Callable[[str, float], None]
"""Is told of each stage as it begins, and how many seconds it will take."""
MIN_STREAMS_FOR_MEMORY = 8
"""With fewer the first use of buffers and threads, which all share, is most of the growth."""
_IDLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Course:
    """What to run.

    Attributes:
        streams: Exactly these numbers of live streams; empty to search for the largest that keeps the objective.
        first: Where the search begins.
        largest: Where it ends at the latest.
        clients: Numbers of REST clients.
        idle_streams: How many streams that send nothing to open; 0 for no such stage.
        max_seconds: Of the whole benchmark: a stage with live streams that would end later is not begun, and the search ends.
    """

    streams: tuple[int, ...] = ()
    first: int = 4
    largest: int = 20_000
    clients: tuple[int, ...] = (1, 4)
    idle_streams: int = 50
    max_seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that one more stream costs the service; None where its processes are not ours to see, or no stage says it.

    Attributes:
        idle_stream: By what the service grew with the streams that send nothing, over as many.
        live_stream: The same with the most live streams before the first stage that broke the objective: after an overload the
            allocator keeps what it was.
    """

    idle_stream: int | None
    live_stream: int | None


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """What was measured.

    Attributes:
        measured_at: When it began.
        version: Of Sonotag.
        processor: Of the machine, generators included.
        cores: That may be used here.
        model: What was under load.
        workers: Of the service.
        plan: The objective and the times, without the sounds.
        largest: The largest number of streams that kept the objective below the smallest that broke it; None where none did.
        is_limit: Whether the next larger number tried broke it, and no more was to be tried.
        streams: The stages with live streams, in the order in which they ran.
        clips: The stages with REST clients.
        memory: What a stream costs.
        failed: The stages that measured nothing. After one with live streams the search goes no further.
    """

    measured_at: datetime
    version: str
    processor: str
    cores: int
    model: ModelFacts
    workers: int
    plan: dict[str, float]
    largest: int | None
    is_limit: bool
    streams: tuple[StreamStage, ...]
    clips: tuple[ClipStage, ...]
    memory: Memory
    failed: tuple[FailedStage, ...] = ()

    def to_document(self) -> dict[str, object]:
        """Return it ready for JSON."""
        return {"kind": "service"} | asdict(self) | {"measured_at": self.measured_at.isoformat()}

    def to_measurement(self) -> Measurement | None:
        """Return what the service may take for its limit, or None where the limit was not found."""
        if self.largest is None or not self.is_limit:
            return None
        speeds = [stage.server.windows_per_second for stage in self.clips]
        speeds += [stage.server.windows_per_second for stage in self.streams]
        return Measurement.model_validate(
            {
                "streams": self.largest,
                "windows_per_second": round(max(speeds), 3),
                "slo_seconds": self.plan["slo_seconds"],
                "hop_seconds": self.plan["hop_seconds"],
                "model": self.model.name,
                "model_sha256": self.model.sha256,
                "provider": self.model.provider,
                "precision": self.model.precision,
                "cores": self.cores,
                "workers": self.workers,
                "measured_at": self.measured_at,
            }
        )


@dataclass(slots=True)
class _Attempts:
    """Runs stages one after the other, and keeps what failed.

    Attributes:
        tell: Is told of each.
        failed: Those that measured nothing, each with why.
    """

    tell: Tell
    failed: list[tuple[str, GeneratorError | TargetError]] = field(default_factory=list)

    def run(self, name: str, seconds: float, measure: Callable[[], StageT]) -> StageT | None:
        """Return what a stage measured, or None where it failed."""
        self.tell(name, seconds)
        try:
            return measure()
        except (GeneratorError, TargetError) as error:
            self.failed.append((name, error))
            return None


def run_benchmark(target: Target, plan: Plan, course: Course, tell: Tell = lambda stage, seconds: None) -> ServiceReport:
    """Run it. Minutes. A stage that fails is named in the report, beside what the others measured.

    Raises:
        GeneratorError: A load generator failed, and no stage measured anything.
        TargetError: The service does not answer before the first stage, or no stage measured anything.
    """
    began = datetime.now(UTC).replace(microsecond=0)
    end = time.monotonic() + course.max_seconds
    model, workers = target.describe(), target.count_workers()  # asked now: an overload may leave nobody to answer
    attempts = _Attempts(tell)
    usage = target.read_usage()  # what a burst of clips leaves for some seconds would hide what the streams take
    before = None if usage is None else usage.memory_bytes
    idle = _run_idle(target, plan, course.idle_streams, attempts)
    stages, is_whole = _run_live(target, plan, course, attempts, end)
    clip_stages = _run_rest(target, plan, course.clients, attempts)
    if attempts.failed and idle is None and not stages and not clip_stages:
        raise attempts.failed[0][1]
    kept = [stage.streams for stage in stages if not stage.broken]
    broken = [stage.streams for stage in stages if stage.broken]
    best = max((number for number in kept if not broken or number < min(broken)), default=None)
    # What an overload leaves in memory is no stream's share.
    unharmed = list(takewhile(lambda stage: not stage.broken, stages))
    live = max(unharmed, key=lambda stage: stage.streams, default=None)
    return ServiceReport(
        measured_at=began,
        version=read_version(),
        processor=read_processor_name(),
        cores=count_usable_cores(),
        model=model,
        workers=workers,
        plan={name: value for name, value in asdict(replace(plan, sounds=())).items() if name != "sounds"},
        largest=best,
        is_limit=bool(broken) and is_whole and not course.streams,
        streams=tuple(stages),
        clips=tuple(clip_stages),
        memory=Memory(_bytes_a_stream(before, idle), _bytes_a_stream(before, live)),
        failed=tuple(FailedStage(name, str(error)) for name, error in attempts.failed),
    )


def _run_idle(target: Target, plan: Plan, num_streams: int, attempts: _Attempts) -> StreamStage | None:
    if not num_streams or target.read_usage() is None:
        return None
    quiet = replace(plan, settle_seconds=_IDLE_SECONDS, measure_seconds=1.0, grace_seconds=0.0)
    return attempts.run(
        f"{num_streams} idle streams",
        quiet.seconds_for(num_streams),
        lambda: run_streams_stage(target, quiet, num_streams, is_silent=True),
    )


def _run_live(target: Target, plan: Plan, course: Course, attempts: _Attempts, end: float) -> tuple[list[StreamStage], bool]:
    """Return the stages, and whether there was time for all and none failed."""
    stages: list[StreamStage] = []
    waiting = list(course.streams)
    while True:
        if course.streams:
            number = waiting.pop(0) if waiting else None
        else:
            kept = {stage.streams for stage in stages if not stage.broken}
            broken = {stage.streams for stage in stages if stage.broken}
            number = next_number(kept, broken, first=course.first, largest=course.largest)
        if number is None:
            return stages, True
        if time.monotonic() + plan.seconds_for(number) > end:
            return stages, False
        measure = partial(run_streams_stage, target, plan, number)
        stage = attempts.run(f"{number} live streams", plan.seconds_for(number), measure)
        if stage is not None:
            stages.append(stage)
        elif not course.streams:  # which number comes next depends on what this one showed
            return stages, False


def _run_rest(target: Target, plan: Plan, numbers: tuple[int, ...], attempts: _Attempts) -> list[ClipStage]:
    clips = make_clips(plan.sounds, plan.sample_rate)
    seconds = WARM_UP_SECONDS + plan.start_seconds + plan.measure_seconds
    stages = [
        attempts.run(f"{number} REST clients", seconds, partial(run_clips_stage, target, plan, clips, number))
        for number in numbers
    ]
    return [stage for stage in stages if stage is not None]


def _bytes_a_stream(before: int | None, stage: StreamStage | None) -> int | None:
    if before is None or stage is None or stage.server.memory_bytes is None or stage.streams < MIN_STREAMS_FOR_MEMORY:
        return None
    return max(0, round((stage.server.memory_bytes - before) / stage.streams))
