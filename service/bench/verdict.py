"""Whether a stage with live streams kept the objective, and why not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from service.bench.orders import Interval, Seconds, StreamsResult
from service.bench.results import Percentiles, ServerUse, StreamStage

MAX_LATENESS = 0.05
"""A generator of which one piece in a hundred is later than this measures itself."""
MAX_GROWTH = 0.05
"""Seconds by which the lag may seem to grow in a stage.

Stages that can go on for ever swing by less, however long they are: by 3 ms on two cores, beside other programs. In the ten
seconds that are measured by default a service exceeds it that does 0.5 % less than it is asked for, in a minute one that does
0.08 % less.
"""
NUM_SLICES = 10


def judge(
    num_streams: int, results: Sequence[StreamsResult], server: ServerUse, interval: Interval, slo_seconds: float | None
) -> StreamStage:
    """Return what a stage showed, with the reasons why it broke the objective.

    Args:
        num_streams: That were to be opened.
        results: Of all generators.
        server: What the service did.
        interval: What was measured.
        slo_seconds: The objective for the 99th percentile of the lag; None for streams that send nothing and have none.
    """
    seconds = interval.end - interval.start
    client_lag = np.concatenate([result.client_lag for result in results])
    stage = StreamStage(
        streams=num_streams,
        opened=sum(result.opened for result in results),
        windows=sum(result.expected for result in results),
        unanswered=sum(result.expected for result in results) - len(client_lag),
        dropped_seconds=sum(result.dropped_seconds for result in results),
        client_lag=Percentiles.of(client_lag),
        lag_growth=measure_growth(np.concatenate([result.sent_at for result in results]), client_lag, interval),
        server_lag=Percentiles.of(np.concatenate([result.server_lag for result in results])),
        lateness=Percentiles.of(np.concatenate([result.lateness for result in results])),
        generator_cores=sum(result.cpu_seconds for result in results) / seconds,
        server=server,
        failures=tuple(failure for result in results for failure in result.failures),
    )
    return stage if slo_seconds is None else replace(stage, broken=list_reasons(stage, slo_seconds))


def measure_growth(sent_at: Seconds, lag: Seconds, interval: Interval) -> float | None:
    """Return by how many seconds the lag grew over an interval; None where half of its slices have no windows.

    A service that does less than it is asked for keeps what is left over in a queue, and the next window waits for all of it:
    at 1 % too little the lag grows by 10 ms a second. The objective may hold in a stage of ten seconds all the same, and break
    in the next minute. The lag shows that better than a count of what was scored: at both ends of an interval some windows are
    under way, more than the hundredth in question where batches are large, and a service counts those of other clients, too.

    What grows steadily is told from a disturbance that passes by the slope of a line through the medians of ten slices: of each
    slice the median slope to all others, and the median of those. Nearly half of the slices may be anything without moving it,
    where a comparison of two halves is moved by one pause in the second. Slices of a tenth have many streams in them, each
    with windows that meet others and windows that do not, so their medians compare.

    Args:
        sent_at: When the last sample of each window that was answered was sent.
        lag: Of the same windows.
        interval: In which they were sent.

    Source:
        A. F. Siegel, Robust regression using repeated medians, Biometrika 69 (1982).
    """
    seconds = interval.end - interval.start
    place = np.floor((sent_at - interval.start) / seconds * NUM_SLICES).astype(np.int64)
    filled = np.unique(place)
    if len(filled) <= NUM_SLICES // 2:
        return None
    times = np.array([sent_at[place == index].mean() for index in filled])
    lags = np.array([np.median(lag[place == index]) for index in filled])
    slopes = [
        np.median(np.delete(lags - lags[index], index) / np.delete(times - times[index], index)) for index in range(len(filled))
    ]
    return float(np.median(slopes)) * seconds


def list_reasons(stage: StreamStage, slo_seconds: float) -> tuple[str, ...]:
    """Return why a stage broke the objective; nothing where it kept it.

    Args:
        stage: What was measured.
        slo_seconds: The objective for the 99th percentile of the lag.
    """
    broken = []
    if stage.failures or stage.opened < stage.streams:
        broken.append(f"{stage.streams - stage.opened} streams not taken" if stage.opened < stage.streams else "streams ended")
    p99 = stage.client_lag.p99
    if p99 is None or p99 > slo_seconds:
        broken.append("no window answered" if p99 is None else "lag")
    if stage.lag_growth is not None and stage.lag_growth > MAX_GROWTH:
        broken.append("growing backlog")
    if stage.unanswered or stage.dropped_seconds:
        broken.append("windows dropped")
    if stage.lateness.p99 is not None and stage.lateness.p99 > MAX_LATENESS:
        broken.append("the generator was late")
    return tuple(broken)
