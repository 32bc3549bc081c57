from __future__ import annotations

import numpy as np
import pytest

from service.bench.orders import Interval, Seconds, StreamsResult
from service.bench.results import StreamStage
from service.bench.verdict import MAX_GROWTH, NUM_SLICES, judge, measure_growth
from tests.support.bench_reports import make_server

INTERVAL = Interval(100.0, 108.0)
SLO = 0.5


def spread(num_streams: int) -> Seconds:
    """When the windows of so many streams at a hop of a second are sent: evenly, over the whole interval."""
    return INTERVAL.start + np.arange(8 * num_streams) / num_streams


def swing(num_streams: int, least: float, most: float) -> Seconds:
    """Lags that go up and down between two values all the time, as windows meet others or do not."""
    return np.resize(np.linspace(least, most, 7), 8 * num_streams)


def judge_lags(num_streams: int, lag: Seconds, *, unanswered: int = 0, slo: float | None = SLO) -> StreamStage:
    """Judge a stage of which nothing but the lags is wrong; its windows come from two generators."""
    sent_at, answered = spread(num_streams), len(lag) - unanswered
    sent_at, lag = sent_at[:answered], lag[:answered]
    results = [
        StreamsResult(
            opened=len(range(part, num_streams, 2)),
            failures=(),
            expected=len(sent_at[part::2]) + (unanswered if part else 0),
            sent_at=sent_at[part::2],
            client_lag=lag[part::2],
            server_lag=lag[part::2] / 2,
            dropped_seconds=0.0,
            lateness=np.full(10, 0.001),
            cpu_seconds=0.4,
        )
        for part in (0, 1)
    ]
    return judge(num_streams, results, make_server(), INTERVAL, slo)


def test_a_queue_that_grows_breaks_an_objective_that_its_lags_still_keep() -> None:
    """126 streams of which 123.6 windows a second are scored: each second 19 ms are left over."""
    elapsed = spread(126) - INTERVAL.start
    stage = judge_lags(126, swing(126, 0.220, 0.250) + elapsed * (126 - 123.6) / 126)
    assert stage.client_lag.p99 is not None
    assert stage.client_lag.p99 < SLO
    assert stage.lag_growth == pytest.approx(8 * (126 - 123.6) / 126, abs=0.01)
    assert stage.broken == ("growing backlog",)


def test_lags_that_swing_and_do_not_grow_keep_it() -> None:
    stage = judge_lags(120, swing(120, 0.060, 0.104))
    assert (stage.streams, stage.opened, stage.windows, stage.unanswered) == (120, 120, 960, 0)
    assert stage.lag_growth == pytest.approx(0, abs=0.01)
    assert stage.generator_cores == pytest.approx(0.1)
    assert stage.broken == ()


@pytest.mark.parametrize("pause_at", [0.0, 3.0, 5.0, 6.5])
def test_a_pause_that_is_caught_up_with_is_no_growth(pause_at: float) -> None:
    """Nothing is scored for 0.4 s; what has waited is done within two seconds more."""
    after = spread(90) - INTERVAL.start - pause_at
    waited = np.where(after >= 0, np.clip(0.4 - 0.2 * after, 0, None), 0)
    stage = judge_lags(90, swing(90, 0.010, 0.060) + waited)
    assert stage.lag_growth == pytest.approx(0, abs=MAX_GROWTH / 2)
    assert stage.broken == ()


def test_growth_is_seen_beside_a_pause() -> None:
    elapsed = spread(120) - INTERVAL.start
    lag = swing(120, 0.060, 0.104) + 0.015 * elapsed + np.where((elapsed > 1) & (elapsed < 2), 0.2, 0)
    assert judge_lags(120, lag).broken == ("growing backlog",)


def test_lags_of_two_kinds_are_no_growth_when_there_are_a_few_more_of_one() -> None:
    sent_at = spread(96)
    has_met = np.arange(len(sent_at)) % 100 < np.linspace(35, 45, len(sent_at))
    assert judge_lags(96, np.where(has_met, 0.07, 0.015)).broken == ()


def test_a_queue_that_shrinks_keeps_it() -> None:
    elapsed = spread(100) - INTERVAL.start
    stage = judge_lags(100, 0.3 - 0.03 * elapsed)
    assert stage.lag_growth == pytest.approx(-0.24, abs=0.01)
    assert stage.broken == ()


def test_a_queue_that_is_full_grows_no_more_and_breaks_it_for_other_reasons() -> None:
    assert judge_lags(192, swing(192, 2.08, 2.10), unanswered=700).broken == ("lag", "windows dropped")


def test_few_windows_say_nothing_of_growth() -> None:
    half = NUM_SLICES // 2
    sent_at = INTERVAL.start + 8 * (np.arange(half) + 0.5) / NUM_SLICES
    assert measure_growth(sent_at, np.linspace(0.0, 1.0, half), INTERVAL) is None
    assert measure_growth(np.array([]), np.array([]), INTERVAL) is None
    one_more = np.append(sent_at, INTERVAL.end - 0.01)
    assert measure_growth(one_more, np.linspace(0.0, 1.0, half + 1), INTERVAL) is not None


def test_streams_without_sound_have_no_objective() -> None:
    stage = judge_lags(4, np.array([]), slo=None)
    assert (stage.client_lag.p99, stage.lag_growth, stage.broken) == (None, None, ())


def test_streams_of_which_nothing_is_heard_break_it() -> None:
    assert judge_lags(4, np.array([])).broken == ("no window answered",)
