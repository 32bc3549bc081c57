from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.errors import ClipTooLong, ClipTooShort, DeadlineExceeded, QueueFull, UndecodableAudio
from service.inference.batcher import Batcher
from service.inference.policy import Priority
from service.observer import NullObserver
from service.options import Grid, make_selector, make_thresholds
from service.postprocess.event_config import EventConfig
from service.tagger import FIRST_SECONDS, MAX_PLACES, ClipPlan, ClipReader, ClipTags, Timing, score_clip
from tests.support.runners import FakeRunner, expected_scores, level

WINDOW = 16_000


@pytest.fixture
def runner():
    return FakeRunner()


@pytest.fixture
async def batcher(runner):
    made = Batcher(runner, max_queue_windows=32, observer=NullObserver())
    made.start()
    yield made
    runner.release()
    await made.stop()


@pytest.fixture
def executor():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def make_plan(runner, *, hop=WINDOW, **options):
    selector = make_selector(runner.spec, 9, 0, [], [])
    return ClipPlan(spec=runner.spec, grid=Grid(WINDOW, hop), selector=selector, **options)


def blocks(*levels, size=5000):
    sound = np.concatenate([level(i, WINDOW) for i in levels])
    return [sound[start : start + size] for start in range(0, len(sound), size)]


def scoring(batcher, executor, plan, sound, **options):
    reader = ClipReader(iter(sound), plan, options.pop("max_seconds", 7200))
    options = {"timeout_seconds": 30, "timing": Timing(), **options}
    return reader, score_clip(reader, reader.read(FIRST_SECONDS), batcher, executor, **options)


async def test_windows_come_in_order_with_the_scores_of_their_own_samples(runner, batcher, executor):
    sound = blocks(0, 1, 2, 3, 1)
    whole = np.concatenate(sound)
    _, windows = scoring(batcher, executor, make_plan(runner, hop=4000), sound)
    ends = []
    async for window in windows:
        span = window.span
        np.testing.assert_allclose(window.scores.scores, expected_scores(whole[span.start : span.end]))
        ends.append(span.end)
    assert ends == list(range(4000, 80_001, 4000))


async def test_without_a_hop_windows_lie_side_by_side_and_the_last_is_aligned_to_the_end(runner, batcher, executor):
    sound = [level(1, 40_000)]
    _, windows = scoring(batcher, executor, make_plan(runner), sound)
    assert [(w.span.start, w.span.end) async for w in windows] == [(0, 16_000), (16_000, 32_000), (24_000, 40_000)]


async def test_a_short_clip_is_one_partial_window(runner, batcher, executor):
    _, windows = scoring(batcher, executor, make_plan(runner), [level(1, 4000)])
    assert [(w.span.start, w.span.end) async for w in windows] == [(0, 4000)]
    assert runner.calls[0].lengths.tolist() == [4000]


async def test_the_answer_is_the_mean_weighed_by_the_sound_in_each_window(runner, batcher, executor):
    plan = make_plan(runner, hop=WINDOW, embedding=True)
    reader, windows = scoring(batcher, executor, plan, [level(1, 16_000), level(2, 8000)])
    tags = ClipTags(plan, per_window=False)
    async for window in windows:
        tags.add(window)
    result = tags.result(reader.num_samples)
    scores = {tag.label: tag.score for tag in result.tags}
    assert scores["Speech"] == pytest.approx((1.0 * 16_000 + 0.5 * 16_000) / 32_000)
    assert scores["Music"] == pytest.approx(0.25)
    assert result.embedding[0] == pytest.approx(16_000)
    assert result.num_samples == 24_000


async def test_functions_apply_to_the_logits_of_each_window(runner, batcher, executor):
    plan = make_plan(runner, function="softmax")
    reader, windows = scoring(batcher, executor, plan, [level(1, 16_000)])
    tags = ClipTags(plan, per_window=False)
    async for window in windows:
        tags.add(window)
    assert sum(tag.score for tag in tags.result(reader.num_samples).tags) == pytest.approx(1, abs=1e-5)


async def test_events_are_those_of_the_windows(runner, batcher, executor):
    selector = make_selector(runner.spec, 1, 0, ["Dog"], [])
    thresholds = make_thresholds(runner.spec, EventConfig(), selector)
    plan = ClipPlan(spec=runner.spec, grid=Grid(WINDOW, WINDOW), selector=selector, thresholds=thresholds)
    reader, windows = scoring(batcher, executor, plan, blocks(1, 3, 3, 1))
    tags = ClipTags(plan, per_window=False)
    async for window in windows:
        tags.add(window)
    (event,) = tags.result(reader.num_samples).events
    assert (event.onset, event.offset, event.peak) == (16_000, 48_000, 1.0)


async def test_an_admitted_file_keeps_only_a_few_windows_in_the_queue(runner, batcher, executor):
    runner.hold()
    _, windows = scoring(batcher, executor, make_plan(runner), blocks(*[1] * 40))
    first = asyncio.ensure_future(anext(windows))
    await asyncio.to_thread(runner.wait_for_runs, 1)
    assert batcher.depth <= MAX_PLACES
    runner.release()
    await first
    assert len([w async for w in windows]) == 39
    assert batcher.depth == 0


async def test_a_long_clip_is_bulk_and_a_short_one_live(runner, batcher, executor):
    runner.hold()
    _, long = scoring(batcher, executor, make_plan(runner), blocks(*[1] * 31))
    first_long = asyncio.ensure_future(anext(long))
    await asyncio.to_thread(runner.wait_for_runs, 1)
    _, short = scoring(batcher, executor, make_plan(runner), blocks(2))
    before = batcher.depth
    first_short = asyncio.ensure_future(anext(short))
    async with asyncio.timeout(30):
        while batcher.depth == before:  # noqa: ASYNC110 - what is waited for happens in other tasks
            await asyncio.sleep(0)
    runner.release()
    await asyncio.gather(first_long, first_short)
    await long.aclose()
    levels = [int(call.waveform[row, 0]) for call in runner.calls for row in range(len(call.lengths))]
    assert levels.index(2000) <= 8  # at once after the batch that ran, before the rest of the long one


async def test_a_full_queue_refuses_a_clip_at_once(runner, batcher, executor):
    with batcher.reserve(batcher.max_places(Priority.LIVE), Priority.LIVE):
        _, windows = scoring(batcher, executor, make_plan(runner), blocks(1))
        with pytest.raises(QueueFull, match="SONOTAG_MAX_QUEUE_WINDOWS"):
            await anext(windows)
    assert runner.calls == []


async def test_what_came_before_an_error_is_given_first(runner, batcher, executor):
    def sound():
        yield from blocks(*[1] * 40)
        raise UndecodableAudio("broken here")

    _, windows = scoring(batcher, executor, make_plan(runner), sound())
    assert [(await anext(windows)).span.end // WINDOW for _ in range(40)] == list(range(1, 41))
    with pytest.raises(UndecodableAudio):
        await anext(windows)


async def test_places_are_given_back_whatever_becomes_of_the_clip(runner, batcher, executor):
    async def broken():
        def sound():
            yield from blocks(*[1] * 40)
            raise UndecodableAudio("broken here")

        _, windows = scoring(batcher, executor, make_plan(runner), sound())
        return [w async for w in windows]

    with pytest.raises(UndecodableAudio):
        await broken()
    _, left = scoring(batcher, executor, make_plan(runner), blocks(*[1] * 40))
    await anext(left)
    await left.aclose()
    everything = batcher.max_places(Priority.LIVE)
    batcher.reserve(everything, Priority.LIVE).release()


async def test_a_window_that_waits_too_long_is_an_error(runner, batcher, executor):
    runner.hold()
    _, windows = scoring(batcher, executor, make_plan(runner), blocks(*[1] * 12), timeout_seconds=0.05)
    first = asyncio.ensure_future(anext(windows))
    await asyncio.to_thread(runner.wait_for_runs, 1)
    async with asyncio.timeout(30):
        while batcher.depth:  # noqa: ASYNC110 - those that wait expire; what runs is left to finish
            await asyncio.sleep(0)
    runner.release()
    await first
    with pytest.raises(DeadlineExceeded):
        async for _ in windows:
            pass


def test_clips_that_are_too_long_or_too_short_are_refused(runner):
    with pytest.raises(ClipTooLong, match="SONOTAG_MAX_CLIP_SECONDS"):
        ClipReader(iter(blocks(*[1] * 12)), make_plan(runner), 10).read(FIRST_SECONDS)
    with pytest.raises(ClipTooShort, match="399 samples"):
        ClipReader(iter([level(1, 399)]), make_plan(runner), 10).read(FIRST_SECONDS)
    with pytest.raises(ClipTooShort, match="0 samples"):
        ClipReader(iter([]), make_plan(runner), 10).read(FIRST_SECONDS)


async def test_a_clip_may_turn_out_to_be_too_long_when_some_of_it_is_scored(runner, batcher, executor):
    _, windows = scoring(batcher, executor, make_plan(runner), blocks(*[1] * 40), max_seconds=35)
    assert (await anext(windows)).span.end == WINDOW
    with pytest.raises(ClipTooLong, match="SONOTAG_MAX_CLIP_SECONDS"):
        async for _ in windows:
            pass


async def test_the_time_of_each_stage_is_known_at_the_end(runner, batcher, executor):
    timing = Timing()
    _, windows = scoring(batcher, executor, make_plan(runner), blocks(1, 2), timing=timing)
    assert len([w async for w in windows]) == 2
    assert timing.decode > 0
    assert timing.queue >= 0
    assert timing.infer > 0
    assert timing.decode < time.monotonic()
