"""What a stage of the load showed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.bench.gpus import GpuUse
from service.bench.orders import Seconds


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of some times in seconds; all None where there were none."""

    p50: float | None
    p90: float | None
    p99: float | None
    largest: float | None

    @classmethod
    def of(cls, values: Seconds) -> Percentiles:
        """Return those of some values."""
        if not len(values):
            return cls(None, None, None, None)
        p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
        return cls(p50, p90, p99, float(values.max()))


@dataclass(frozen=True, slots=True)
class ServerUse:
    """What the service did and used in the measured seconds.

    Attributes:
        windows_per_second: Scored.
        mean_batch: Windows in a batch; None where there was none.
        batches: How many batches, by the largest size of their bucket.
        cores: Processor time over time; None where the processes are not ours to see.
        memory_bytes: Its own memory at the end; None likewise.
        gpus: One for each GPU.
    """

    windows_per_second: float
    mean_batch: float | None
    batches: dict[str, int]
    cores: float | None
    memory_bytes: int | None
    gpus: tuple[GpuUse, ...]


@dataclass(frozen=True, slots=True)
class StreamStage:
    """One number of live streams.

    Attributes:
        streams: So many.
        opened: Those that the service took.
        windows: That ended in the measured seconds.
        unanswered: Of those: dropped, or lost.
        dropped_seconds: What the service said it dropped.
        client_lag: From sending a window's last sample to its result.
        lag_growth: Seconds by which that grew steadily over the measured seconds; None with too few windows.
        server_lag: What the service said of the same windows.
        lateness: Of the generator's sends.
        generator_cores: Processor time over time, of all generator processes.
        server: What the service did.
        failures: What happened to streams that ended early.
        broken: Why the objective did not hold; empty where it did.
    """

    streams: int
    opened: int
    windows: int
    unanswered: int
    dropped_seconds: float
    client_lag: Percentiles
    lag_growth: float | None
    server_lag: Percentiles
    lateness: Percentiles
    generator_cores: float
    server: ServerUse
    failures: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FailedStage:
    """One that measured nothing, because the service or a load generator failed.

    Attributes:
        stage: Which, in words.
        reason: What failed.
    """

    stage: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClipStage:
    """One number of REST clients in a closed loop.

    Attributes:
        clients: So many.
        clips_per_second: Answered.
        latency: Of a request.
        refused: Answers with another status, by status.
        generator_cores: As of `StreamStage`.
        server: What the service did.
    """

    clients: int
    clips_per_second: float
    latency: Percentiles
    refused: dict[int, int]
    generator_cores: float
    server: ServerUse
