"""The whole benchmark of a service: idle streams, live streams until the objective breaks, then REST clients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile

from service.bench.results import ClipStage, StreamStage
from service.bench.search import next_number
from service.bench.sounds import make_clips
from service.bench.stages import Plan, run_clips_stage, run_streams_stage
from service.bench.target import ModelFacts, Target
from service.capacity import Measurement
from service.errors import SonotagError
from service.machine import count_usable_cores, read_processor_name
from service.release import read_version

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
    """Bytes that one more stream costs the service; None where its processes are not ours to see, or no stage says it."""

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
        failure: Why the search ended before its end, or nothing: what was measured until then still counts.
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
    failure: str = ""

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


def run_benchmark(target: Target, plan: Plan, course: Course, tell: Tell = lambda stage, seconds: None) -> ServiceReport:
    """Run it. Minutes.

    Raises:
        GeneratorError: A load generator failed in the first stage.
        TargetError: The service does not answer there.
    """
    began = datetime.now(UTC).replace(microsecond=0)
    end = time.monotonic() + course.max_seconds
    model, num_workers = target.describe(), target.count_workers()
    usage = target.read_usage()  # what a burst of clips leaves for some seconds would hide what the streams take
    before = None if usage is None else usage.memory_bytes
    idle = _run_idle(target, plan, course.idle_streams, tell)
    stages: list[StreamStage] = []
    is_whole, failure = False, ""
    try:
        is_whole = _run_live(target, plan, course, tell, end, stages)
    except SonotagError as error:
        if not stages:
            raise
        failure = str(error)
    clips = make_clips(plan.sounds, plan.sample_rate)
    clip_stages = []
    for clients in () if failure else course.clients:
        tell(f"{clients} REST clients", plan.measure_seconds + 2.5)
        clip_stages.append(run_clips_stage(target, plan, clips, clients))
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
        workers=num_workers,
        plan={name: value for name, value in asdict(replace(plan, sounds=())).items() if name != "sounds"},
        largest=best,
        is_limit=bool(broken) and is_whole and not course.streams,
        streams=tuple(stages),
        clips=tuple(clip_stages),
        memory=Memory(_bytes_a_stream(before, idle), _bytes_a_stream(before, live)),
        failure=failure,
    )


def _run_idle(target: Target, plan: Plan, num_streams: int, tell: Tell) -> StreamStage | None:
    if not num_streams or target.read_usage() is None:
        return None
    quiet = replace(plan, settle_seconds=_IDLE_SECONDS, measure_seconds=1.0, grace_seconds=0.0)
    tell(f"{num_streams} idle streams", quiet.seconds_for(num_streams))
    return run_streams_stage(target, quiet, num_streams, is_silent=True)


def _run_live(target: Target, plan: Plan, course: Course, tell: Tell, end: float, stages: list[StreamStage]) -> bool:
    """Add the stages one by one, and return whether there was time for all."""
    waiting = list(course.streams)
    while True:
        if course.streams:
            number = waiting.pop(0) if waiting else None
        else:
            kept = {stage.streams for stage in stages if not stage.broken}
            broken = {stage.streams for stage in stages if stage.broken}
            number = next_number(kept, broken, first=course.first, largest=course.largest)
        if number is None:
            return True
        if time.monotonic() + plan.seconds_for(number) > end:
            return False
        tell(f"{number} live streams", plan.seconds_for(number))
        stages.append(run_streams_stage(target, plan, number))


def _bytes_a_stream(before: int | None, stage: StreamStage | None) -> int | None:
    if before is None or stage is None or stage.server.memory_bytes is None or stage.streams < MIN_STREAMS_FOR_MEMORY:
        return None
    return max(0, round((stage.server.memory_bytes - before) / stage.streams))
