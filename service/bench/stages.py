"""One stage of the load: so many streams or clients for some seconds, and what was seen of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import numpy as np

from service.bench.generator import Generators
from service.bench.gpus import GpuUse, GpuWatch
from service.bench.orders import ClipsOrder, ClipsResult, Interval, StreamsOrder, StreamsResult
from service.bench.processes import Usage
from service.bench.results import ClipStage, Percentiles, ServerUse, StreamStage
from service.bench.target import Target, batch_sizes, total
from service.bench.verdict import judge
from service.inference.runner import Int16Array

WARM_UP_SECONDS = 1.0
"""In which REST clients ask and are not counted."""
OPENINGS_PER_SECOND = 200
_BATCHES = "sonotag_batch_size_windows"


@dataclass(frozen=True, slots=True)
class Plan:
    """What stays the same from stage to stage.

    Attributes:
        sounds: int16 mono.
        sample_rate: Of the sounds, Hz.
        hop_seconds: Of the streams.
        slo_seconds: The objective for the 99th percentile of the lag.
        settle_seconds: From the last opening to the measurement: windows of a stream's first seconds are shorter.
        measure_seconds: How long to measure.
        grace_seconds: How long what is late may still come.
        num_generators: Processes.
        start_seconds: From their orders to the first stream.
        speed: Seconds of sound that a stream sends in a second.
    """

    sounds: tuple[Int16Array, ...]
    sample_rate: int
    hop_seconds: float
    slo_seconds: float
    settle_seconds: float
    measure_seconds: float
    grace_seconds: float
    num_generators: int
    start_seconds: float = 0.5
    speed: float = 1.0

    def seconds_for(self, num_streams: int) -> float:
        """Return how long a stage takes."""
        return (
            self.start_seconds
            + self.ramp_seconds(num_streams)
            + self.settle_seconds
            + self.measure_seconds
            + self.grace_seconds
        )

    def ramp_seconds(self, num_streams: int) -> float:
        """Return over how long streams are opened: whole hops, so that their windows end evenly spread over a hop."""
        hop = self.hop_seconds / self.speed
        return hop * max(1, math.ceil(num_streams / OPENINGS_PER_SECOND / hop))


@dataclass(frozen=True, slots=True)
class Sample:
    """What a service has used and counted so far, each with its own time: they are not read at once.

    Attributes:
        usage: Of its processes; None where they are not ours.
        used_at: When that was read, by a clock of seconds.
        metrics: What it counted; see `Target.read_metrics`.
        counted_at: The middle between question and answer, by the same clock.
    """

    usage: Usage | None
    used_at: float
    metrics: Mapping[str, float]
    counted_at: float


def run_streams_stage(target: Target, plan: Plan, num_streams: int, *, is_silent: bool = False) -> StreamStage:
    """Run so many live streams and judge them.

    Raises:
        GeneratorError: A generator failed.
        TargetError: The service does not answer.
    """
    count = min(plan.num_generators, num_streams)
    with Generators(count) as generators:
        first = time.monotonic() + plan.start_seconds
        ramp = plan.ramp_seconds(num_streams)
        starts = [first + ramp * index / num_streams for index in range(num_streams)]
        begin = first + ramp + plan.settle_seconds
        interval = Interval(begin, begin + plan.measure_seconds)
        query = {"encoding": "s16le", "sample_rate": plan.sample_rate, "hop": plan.hop_seconds}
        url = target.url.replace("http", "ws", 1) + "/v1/stream?" + urlencode(query)
        sounds = tuple(sound.tobytes() for sound in plan.sounds)
        orders = [
            StreamsOrder(
                url=url,
                sounds=sounds[index % len(sounds) :] + sounds[: index % len(sounds)],
                starts=tuple(starts[index::count]),
                interval=interval,
                grace_seconds=plan.grace_seconds,
                is_silent=is_silent,
                sample_rate=plan.sample_rate,
                hop_seconds=plan.hop_seconds,
                api_key=target.api_key,
                speed=plan.speed,
            )
            for index in range(count)
        ]
        generators.send(orders)
        server = _watch(target, interval)
        results = [result for result in generators.results() if isinstance(result, StreamsResult)]
    return judge(num_streams, results, server, interval, None if is_silent else plan.slo_seconds)


def run_clips_stage(target: Target, plan: Plan, clips: tuple[bytes, ...], num_clients: int) -> ClipStage:
    """Run so many REST clients.

    Raises:
        GeneratorError: A generator failed, as when a connection breaks.
        TargetError: The service does not answer.
    """
    count = min(plan.num_generators, num_clients)
    with Generators(count) as generators:
        begin = time.monotonic() + plan.start_seconds + WARM_UP_SECONDS
        interval = Interval(begin, begin + plan.measure_seconds)
        address = urlsplit(target.url)
        is_secure = address.scheme == "https"
        orders = [
            ClipsOrder(
                host=address.hostname or "",
                port=address.port or (443 if is_secure else 80),
                is_secure=is_secure,
                path=f"{address.path}/v1/classify",
                clips=clips,
                num_clients=len(range(index, num_clients, count)),
                interval=interval,
                api_key=target.api_key,
            )
            for index in range(count)
        ]
        generators.send(orders)
        server = _watch(target, interval)
        results = [result for result in generators.results() if isinstance(result, ClipsResult)]
    latency = np.concatenate([result.latency for result in results])
    refused: dict[int, int] = {}
    for result in results:
        for status, number in result.refused.items():
            refused[status] = refused.get(status, 0) + number
    return ClipStage(
        clients=num_clients,
        clips_per_second=len(latency) / plan.measure_seconds,
        latency=Percentiles.of(latency),
        refused=refused,
        generator_cores=sum(result.cpu_seconds for result in results) / plan.measure_seconds,
        server=server,
    )


def _watch(target: Target, interval: Interval) -> ServerUse:
    """Read what the service counts and uses at both ends of the interval."""
    time.sleep(max(0.0, interval.start - time.monotonic()))
    with GpuWatch() as gpus:
        first = _sample(target)
        time.sleep(max(0.0, interval.end - time.monotonic()))
        last = _sample(target)
    return server_use(first, last, gpus.uses)


def _sample(target: Target) -> Sample:
    # Usage first: it is read in a millisecond, while a service under load may answer late.
    usage, used_at = target.read_usage(), time.monotonic()
    asked_at = time.monotonic()
    metrics = target.read_metrics()
    return Sample(usage, used_at, metrics, (asked_at + time.monotonic()) / 2)


def server_use(first: Sample, last: Sample, gpus: tuple[GpuUse, ...]) -> ServerUse:
    """Return what a service did and used between two samples.

    Args:
        first: Of the beginning.
        last: Of the end.
        gpus: What was seen of its GPUs between.
    """
    windows = total(last.metrics, "sonotag_windows_scored_total") - total(first.metrics, "sonotag_windows_scored_total")
    num_batches = total(last.metrics, f"{_BATCHES}_count") - total(first.metrics, f"{_BATCHES}_count")
    cores = None
    if first.usage is not None and last.usage is not None:
        cores = (last.usage.cpu_seconds - first.usage.cpu_seconds) / (last.used_at - first.used_at)
    return ServerUse(
        windows_per_second=windows / (last.counted_at - first.counted_at),
        mean_batch=windows / num_batches if num_batches else None,
        batches=batch_sizes(first.metrics, last.metrics),
        cores=cores,
        memory_bytes=None if last.usage is None else last.usage.memory_bytes,
        gpus=gpus,
    )
