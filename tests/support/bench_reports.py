"""A report of `sonotag bench` with numbers that a test knows."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from service.bench.benchmark import Memory, ServiceReport
from service.bench.results import ClipStage, Percentiles, ServerUse, StreamStage
from service.bench.target import ModelFacts

LAGS = Percentiles.of(np.linspace(0.001, 0.1, 100))


def make_server(windows_per_second: float = 24.0) -> ServerUse:
    return ServerUse(windows_per_second, 1.5, {"1": 8, "2": 8}, 0.9, 120_000_000, ())


def make_stage(streams: int, *broken: str) -> StreamStage:
    return StreamStage(
        streams=streams,
        opened=streams,
        windows=10 * streams,
        unanswered=3 if broken else 0,
        dropped_seconds=0.0,
        client_lag=LAGS,
        lag_growth=0.002,
        server_lag=LAGS,
        lateness=LAGS,
        generator_cores=0.07,
        server=make_server(float(streams)),
        broken=broken,
    )


def make_report(*stages: StreamStage, largest: int | None = 24, is_limit: bool = True) -> ServiceReport:
    return ServiceReport(
        measured_at=datetime(2026, 11, 24, 12, tzinfo=UTC),
        version="0.1.0",
        processor="A Processor",
        cores=2,
        model=ModelFacts("fake", "0" * 64, "cpu", "fp32", 1.0),
        workers=1,
        plan={"slo_seconds": 0.5, "hop_seconds": 1.0},
        largest=largest,
        is_limit=is_limit,
        streams=stages,
        clips=(ClipStage(4, 31.0, LAGS, {503: 2}, 0.02, make_server(33.0)),),
        memory=Memory(35_000, 600_000),
    )
