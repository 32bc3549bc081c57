from __future__ import annotations

import asyncio

import pytest

from service.access.keys import Limits
from service.access.metering import BLOCK_SECONDS, AudioMeter
from service.access.quotas import HOUR_SECONDS, QuotaLedger
from service.errors import ClipTooLong, QuotaExceeded
from service.keeper.client import LocalKeeper
from service.keeper.keeper import Keeper
from service.kept_quotas import KeptQuotas
from service.settings import Settings

KEY, OTHER = "aaaaaaaa", "bbbbbbbb"
DAY = 24 * HOUR_SECONDS


def test_as_many_requests_as_may_be_in_any_minute_and_the_answer_says_when_the_next_one_may() -> None:
    ledger, limits = QuotaLedger(), Limits(requests_per_minute=3)
    for now in (0.0, 1.0, 30.0):
        ledger.admit_request(KEY, limits, now)
    with pytest.raises(QuotaExceeded, match="3 requests") as caught:
        ledger.admit_request(KEY, limits, 40.0)
    assert caught.value.retry_after_s == 20
    ledger.admit_request(OTHER, limits, 40.0)
    ledger.admit_request(KEY, limits, 60.0)
    with pytest.raises(QuotaExceeded):
        ledger.admit_request(KEY, limits, 60.5)
    ledger.admit_request(KEY, limits, 61.0)


def test_a_limit_that_was_lowered_holds_at_once() -> None:
    ledger = QuotaLedger()
    for _ in range(5):
        ledger.admit_request(KEY, Limits(requests_per_minute=5), 0.0)
    with pytest.raises(QuotaExceeded) as caught:
        ledger.admit_request(KEY, Limits(requests_per_minute=2), 10.0)
    assert caught.value.retry_after_s == 50


def test_streams_are_counted_while_they_are_open_each_once() -> None:
    ledger, limits = QuotaLedger(), Limits(max_streams=2)
    ledger.open_stream(KEY, limits, 1, "one")
    ledger.open_stream(KEY, limits, 2, "two")
    with pytest.raises(QuotaExceeded, match="2 streams"):
        ledger.open_stream(KEY, limits, 1, "three")
    ledger.open_stream(OTHER, limits, 1, "four")
    ledger.close_stream(KEY, 1, "one")
    ledger.close_stream(KEY, 1, "one")
    ledger.open_stream(KEY, limits, 1, "three")
    with pytest.raises(QuotaExceeded):
        ledger.open_stream(KEY, limits, 1, "five")


def test_the_streams_of_a_dead_worker_are_open_no_longer() -> None:
    ledger, limits = QuotaLedger(), Limits(max_streams=2)
    ledger.open_stream(KEY, limits, 1, "one")
    ledger.open_stream(KEY, limits, 2, "two")
    ledger.forget(1)
    ledger.open_stream(KEY, limits, 2, "three")
    with pytest.raises(QuotaExceeded):
        ledger.open_stream(KEY, limits, 2, "four")


def test_sound_is_counted_over_any_day_and_the_answer_says_when_there_is_enough_again() -> None:
    ledger, limits = QuotaLedger(), Limits(audio_seconds_per_day=100)
    assert ledger.reserve_audio(KEY, limits, 60, 60, 0.0) == 60
    assert ledger.reserve_audio(KEY, limits, 60, 1, 2 * HOUR_SECONDS) == 40, "what is left"
    with pytest.raises(QuotaExceeded, match=r"0\.0 s of sound left of 100 s") as caught:
        ledger.reserve_audio(KEY, limits, 10, 1, 3 * HOUR_SECONDS)
    assert caught.value.retry_after_s == DAY - 3 * HOUR_SECONDS
    with pytest.raises(QuotaExceeded) as caught:
        ledger.reserve_audio(KEY, limits, 70, 70, 3 * HOUR_SECONDS)
    assert caught.value.retry_after_s == DAY - HOUR_SECONDS, "then the second reservation is forgotten too"
    assert ledger.reserve_audio(KEY, limits, 60, 60, DAY) == 60


def test_what_whoever_asks_has_set_aside_counts_as_theirs() -> None:
    ledger, limits = QuotaLedger(), Limits(audio_seconds_per_day=100)
    ledger.reserve_audio(KEY, limits, 70, 70, 0.0)
    ledger.reserve_audio(KEY, limits, 10, 10, HOUR_SECONDS)
    with pytest.raises(QuotaExceeded, match=r"30\.0 s of sound left of 100 s in 24 hours, 50\.0 s are needed") as caught:
        ledger.reserve_audio(KEY, limits, 40, 40, HOUR_SECONDS, held=10)
    assert caught.value.retry_after_s == DAY - HOUR_SECONDS


async def test_more_than_a_day_has_is_never_there_and_is_not_to_be_tried_again() -> None:
    quotas = CountedQuotas()
    meter = AudioMeter(quotas, KEY, Limits(audio_seconds_per_day=100))
    with pytest.raises(ClipTooLong, match=r"101\.0 s of sound are needed at once, this API key may send 100 s in 24") as caught:
        await meter.require(101)
    assert (caught.value.retryable, caught.value.retry_after_s) == (False, None)
    with pytest.raises(ClipTooLong):
        await meter.take(101)
    await meter.take(60)
    with pytest.raises(ClipTooLong):
        meter.check_whole(120)
    assert sum(quotas.reserved) == 60


def test_where_no_hour_that_falls_out_is_enough_the_answer_is_a_whole_day() -> None:
    """Sums of floats may miss the last bit: whoever asked for all of it is told to wait and not never to come."""
    ledger = QuotaLedger()
    with pytest.raises(QuotaExceeded) as caught:
        ledger.reserve_audio(KEY, Limits(audio_seconds_per_day=10), 10.1, 10.1, 0.0)
    assert caught.value.retry_after_s == DAY


def test_what_was_not_used_is_there_again() -> None:
    ledger, limits = QuotaLedger(), Limits(audio_seconds_per_day=100)
    ledger.reserve_audio(KEY, limits, 50, 50, 0.0)
    ledger.reserve_audio(KEY, limits, 50, 50, HOUR_SECONDS)
    ledger.return_audio(KEY, 70)
    assert ledger.reserve_audio(KEY, limits, 100, 1, HOUR_SECONDS) == 70
    ledger.return_audio(KEY, 1000)
    assert ledger.reserve_audio(KEY, limits, 1000, 1, HOUR_SECONDS) == 100, "never more than there was"


def test_without_a_limit_nothing_is_counted() -> None:
    ledger = QuotaLedger()
    for _ in range(1000):
        ledger.admit_request(KEY, Limits(), 0.0)
    assert ledger.reserve_audio(KEY, Limits(), 1e9, 1e9, 0.0) == 1e9


class CountedQuotas(KeptQuotas):
    """Keeps how much was set aside at each call."""

    def __init__(self) -> None:
        super().__init__(LocalKeeper(Keeper(Settings(_env_file=None), clock=lambda: 0.0)))  # type: ignore[call-arg]
        self.reserved: list[float] = []

    async def reserve_audio(self, key: str, limits: Limits, seconds: float, minimum: float, held: float = 0.0) -> float:
        await asyncio.sleep(0)  # as one that is asked over a socket
        granted = await super().reserve_audio(key, limits, seconds, minimum, held)
        self.reserved.append(granted)
        return granted


async def test_a_meter_asks_once_a_block_and_returns_what_is_left() -> None:
    quotas, limits = CountedQuotas(), Limits(audio_seconds_per_day=25)
    meter = AudioMeter(quotas, KEY, limits)
    for _ in range(150):
        await meter.take(0.1)
    assert quotas.reserved == [BLOCK_SECONDS, BLOCK_SECONDS]
    await meter.aclose()
    await meter.aclose()
    assert await quotas.reserve_audio(KEY, limits, 25, 1) == pytest.approx(10)


async def test_a_meter_gives_out_the_last_part_of_a_block_and_then_nothing() -> None:
    meter = AudioMeter(CountedQuotas(), KEY, Limits(audio_seconds_per_day=12))
    for _ in range(12):
        await meter.take(1)
    with pytest.raises(QuotaExceeded):
        await meter.take(1)


async def test_tasks_that_share_a_meter_use_no_more_than_there_is() -> None:
    quotas = CountedQuotas()
    meter = AudioMeter(quotas, KEY, Limits(audio_seconds_per_day=40))
    results = await asyncio.gather(*(meter.take(3) for _ in range(20)), return_exceptions=True)
    assert results.count(None) == 13
    assert sum(quotas.reserved) == 40


async def test_a_clip_that_is_a_sample_longer_than_it_said_is_within_its_quota() -> None:
    meter = AudioMeter(CountedQuotas(), KEY, Limits(audio_seconds_per_day=60))
    await meter.require(60)
    await meter.take(60.0001)
