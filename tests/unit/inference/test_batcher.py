from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.errors import DeadlineExceeded, Draining, InferenceFailed, QueueFull
from service.inference.batcher import Batcher, WindowScores
from service.inference.policy import Priority
from service.inference.runner import Int16Array, Int64Array, ModelOutput
from service.observer import NullObserver, Stage, WasteReason
from tests.support.clock import Clock
from tests.support.runners import FakeRunner, expected_scores, level

LIVE, BULK = Priority.LIVE, Priority.BULK


class Recorder(NullObserver):
    """Writes down what the batcher reports."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.batches: list[int] = []
        self.depths: list[int] = []
        self.dropped: list[tuple[str, int]] = []

    def stage_seconds(self, stage: Stage, seconds: float) -> None:
        assert seconds >= 0
        self.stages.append(stage)

    def batch_scored(self, model: str, num_windows: int) -> None:
        assert model == "fake"
        self.batches.append(num_windows)

    def windows_dropped(self, model: str, reason: WasteReason, num_windows: int) -> None:
        assert model == "fake"
        self.dropped.append((reason, num_windows))

    def queue_depth(self, model: str, num_windows: int) -> None:
        self.depths.append(num_windows)


@asynccontextmanager
async def running(runner: FakeRunner, **options: object) -> AsyncIterator[Batcher]:
    """A started batcher; at the end the runner is let go and everything must finish."""
    options = {"max_queue_windows": 64, "observer": NullObserver()} | options
    batcher = Batcher(runner, **options)  # type: ignore[arg-type]
    batcher.start()
    try:
        yield batcher
    finally:
        runner.release()
        await asyncio.wait_for(batcher.stop(), 30)
        assert runner.closed


async def started(runner: FakeRunner, num_runs: int) -> None:
    await asyncio.to_thread(runner.wait_for_runs, num_runs)


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop its turns until something is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in other tasks of this loop)
            await asyncio.sleep(0)


def spawn(call: Awaitable[WindowScores]) -> asyncio.Task[WindowScores]:
    return asyncio.ensure_future(call)


def marked(mark: int, num_samples: int = 400) -> Int16Array:
    """A window that can be told from the others by its first sample."""
    return np.full(num_samples, mark, np.int16)


def marks(runner: FakeRunner, call: int) -> set[int]:
    """The first samples of a run's windows; rows within a batch are in no particular order."""
    return {int(first) for first in runner.calls[call].waveform[:, 0]}


async def busy(batcher: Batcher, runner: FakeRunner, mark: int = -1) -> asyncio.Task[WindowScores]:
    """Occupy the runner with one window that it holds."""
    runner.hold()
    task = spawn(batcher.submit(marked(mark), priority=LIVE))
    await started(runner, 1)
    return task


async def test_every_caller_gets_the_scores_of_its_own_window() -> None:
    windows = [np.concatenate([level(i % 4, 500 + 10 * i), level(1, 300)]) for i in range(11)]
    async with running(FakeRunner()) as batcher:
        answers = await asyncio.gather(*(batcher.submit(window, priority=LIVE) for window in windows))
    for window, answer in zip(windows, answers, strict=True):
        np.testing.assert_array_equal(answer.scores, expected_scores(window))
        assert answer.logits.shape == (4,)
        assert answer.embedding is None
        assert answer.queue_seconds >= 0
        assert answer.infer_seconds >= 0


async def test_only_who_asks_gets_the_embedding() -> None:
    runner = FakeRunner()
    async with running(runner) as batcher:
        first = await busy(batcher, runner)
        asked = spawn(batcher.submit(marked(7), priority=LIVE, embedding=True))
        other = spawn(batcher.submit(marked(8), priority=LIVE))
        await until(lambda: batcher.depth == 2)
        runner.release()
        embedding = (await asked).embedding
        assert embedding is not None
        assert embedding.tolist() == [400, 7, 0, 0]
        assert (await other).embedding is None
        assert (await first).embedding is None
    assert [call.embedding for call in runner.calls] == [False, True]


async def test_what_waits_is_taken_together_when_the_runner_is_free() -> None:
    runner = FakeRunner(batch_sizes=(1, 2, 4))
    async with running(runner) as batcher:
        await busy(batcher, runner)
        waiting = [spawn(batcher.submit(marked(i), priority=LIVE)) for i in range(6)]
        await until(lambda: batcher.depth == 6)
        runner.release()
        await asyncio.gather(*waiting)
    assert [len(call.lengths) for call in runner.calls] == [1, 4, 2]
    assert [marks(runner, 1), marks(runner, 2)] == [{0, 1, 2, 3}, {4, 5}]
    assert len({call.thread for call in runner.calls}) == 1


async def test_a_batch_is_as_long_as_the_window_that_its_callers_chose() -> None:
    runner = FakeRunner(windows_samples=(4_000, 16_000), batch_sizes=(4,))
    sounds = [level(1, 4_000), level(2, 4_001), level(3, 500), level(1, 500)]
    async with running(runner) as batcher:
        first = await busy(batcher, runner)
        chosen = [4_000, None, 3_000, 8_000]
        calls = [
            spawn(batcher.submit(sound, priority=LIVE, window_samples=window))
            for sound, window in zip(sounds, chosen, strict=True)
        ]
        await until(lambda: batcher.depth == 4)
        runner.release()
        for sound, scores in zip(sounds, await asyncio.gather(*calls), strict=True):
            np.testing.assert_array_equal(scores.scores, expected_scores(sound))
        await first
    assert [call.waveform.shape for call in runner.calls[1:]] == [(2, 4_000), (2, 16_000)]
    assert [sorted(call.lengths.tolist()) for call in runner.calls[1:]] == [[500, 4_000], [500, 4_001]]


async def test_a_window_longer_than_its_callers_windows_is_an_error() -> None:
    async with running(FakeRunner()) as batcher:
        for window in (499, 16_001):
            with pytest.raises(ValueError, match=f"window_samples is {window}, it must be 500 to 16000"):
                await batcher.submit(level(1, 500), priority=LIVE, window_samples=window)


async def test_max_batch_size_caps_the_batches() -> None:
    runner = FakeRunner()
    async with running(runner, max_batch_size=2) as batcher:
        await busy(batcher, runner)
        waiting = [spawn(batcher.submit(marked(i), priority=LIVE)) for i in range(5)]
        await until(lambda: batcher.depth == 5)
        runner.release()
        await asyncio.gather(*waiting)
    assert [len(call.lengths) for call in runner.calls] == [1, 2, 2, 1]


async def test_cuda_batches_are_padded_to_a_warm_size_and_cpu_batches_are_not() -> None:
    sizes = {}
    for provider in ("cpu", "cuda"):
        runner = FakeRunner(provider=provider, batch_sizes=(1, 4, 8))
        async with running(runner) as batcher:
            await busy(batcher, runner)
            waiting = [spawn(batcher.submit(level(i, 400), priority=LIVE)) for i in range(3)]
            await until(lambda b=batcher: b.depth == 3)  # type: ignore[misc]
            runner.release()
            answers = await asyncio.gather(*waiting)
        assert [int(answer.scores.argmax()) for answer in answers] == [0, 1, 2]
        sizes[provider] = [len(call.lengths) for call in runner.calls]
    assert sizes == {"cpu": [1, 3], "cuda": [1, 4]}


async def test_a_reused_row_holds_nothing_of_the_window_before() -> None:
    runner = FakeRunner()
    async with running(runner) as batcher:
        for _ in range(3):
            await batcher.submit(level(3, 16_000), priority=LIVE)
        await batcher.submit(level(2, 400), priority=LIVE)
    assert not runner.calls[-1].waveform[0, 400:].any()


async def test_live_windows_overtake_bulk_ones_that_were_already_staged() -> None:
    runner = FakeRunner(batch_sizes=(1, 2))
    async with running(runner) as batcher:
        await busy(batcher, runner)
        bulk = [spawn(batcher.submit(marked(i), priority=BULK)) for i in range(10, 14)]
        await until(lambda: batcher.depth == 4)
        live = [spawn(batcher.submit(level(i, 400), priority=LIVE)) for i in (1, 2)]
        await until(lambda: batcher.depth == 6)
        runner.release()
        answers = await asyncio.gather(*live)
        await asyncio.gather(*bulk)
    assert [int(answer.scores.argmax()) for answer in answers] == [1, 2]
    assert [marks(runner, i) for i in range(1, 4)] == [{1000, 2000}, {10, 11}, {12, 13}]


async def test_bulk_gets_a_batch_in_eight_while_live_keeps_coming() -> None:
    runner = FakeRunner(batch_sizes=(1,))
    async with running(runner) as batcher:
        await busy(batcher, runner)
        bulk = [spawn(batcher.submit(marked(1), priority=BULK)) for _ in range(2)]
        live = [spawn(batcher.submit(marked(2), priority=LIVE)) for _ in range(20)]
        await until(lambda: batcher.depth == 22)
        runner.release()
        await asyncio.gather(*bulk, *live)
    order = [next(iter(marks(runner, i))) for i in range(1, 23)]
    assert [i for i, mark in enumerate(order) if mark == 1] == [7, 15]


async def test_a_cancelled_window_is_never_scored_and_frees_its_place() -> None:
    runner, recorder = FakeRunner(), Recorder()
    async with running(runner, max_queue_windows=2, observer=recorder) as batcher:
        await busy(batcher, runner)
        gone, kept, parked = (spawn(batcher.submit(marked(i), priority=LIVE)) for i in (5, 6, 7))
        await until(lambda: batcher.depth == 3)
        gone.cancel()
        await until(gone.done)
        assert batcher.depth == 2
        runner.release()
        await asyncio.gather(kept, parked)
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert marks(runner, 1) == {6, 7}
    assert recorder.dropped == [("left", 1)]


async def test_cancelling_a_window_that_runs_harms_nobody() -> None:
    runner = FakeRunner()
    async with running(runner) as batcher:
        task = await busy(batcher, runner)
        task.cancel()
        await until(task.done)
        runner.release()
        assert (await batcher.submit(level(1, 400), priority=LIVE)).scores[1] == 1


async def test_a_window_past_its_deadline_is_dropped_unscored() -> None:
    clock = Clock()
    runner, recorder = FakeRunner(), Recorder()
    async with running(runner, clock=clock, observer=recorder) as batcher:
        await busy(batcher, runner)
        late = spawn(batcher.submit(marked(5), priority=LIVE, deadline=clock.now + 1000))
        fine = spawn(batcher.submit(marked(6), priority=LIVE, deadline=clock.now + 9000))
        await until(lambda: batcher.depth == 2)
        clock.now += 2000
        runner.release()
        await fine
        with pytest.raises(DeadlineExceeded) as caught:
            await late
    assert caught.value.retryable
    assert caught.value.http_status == 503
    assert marks(runner, 1) == {6}
    assert recorder.dropped == [("late", 1)]


async def test_a_deadline_that_is_over_at_the_start_costs_nothing() -> None:
    clock = Clock()
    runner = FakeRunner()
    async with running(runner, clock=clock) as batcher:
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(marked(1), priority=LIVE, deadline=clock.now)
    assert not runner.calls


async def test_a_deadline_is_answered_while_the_runner_is_stuck() -> None:
    runner, recorder = FakeRunner(), Recorder()
    async with running(runner, max_queue_windows=1, observer=recorder) as batcher:
        await busy(batcher, runner)
        deadline = batcher._clock() + 0.01
        waiting = [spawn(batcher.submit(marked(i), priority=LIVE, deadline=deadline)) for i in range(2)]
        async with asyncio.timeout(30):
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [DeadlineExceeded, DeadlineExceeded]
        assert batcher.depth == 0
    assert recorder.dropped == [("late", 1), ("late", 1)]


async def test_a_poisoned_batch_fails_its_own_windows_and_the_next_ones_work(caplog: pytest.LogCaptureFixture) -> None:
    runner = FakeRunner(failures=[None, RuntimeError("secret path"), SystemExit(3)], batch_sizes=(1, 2))
    async with running(runner) as batcher:
        first = await busy(batcher, runner)
        waiting = [spawn(batcher.submit(marked(i), priority=LIVE)) for i in range(6)]
        await until(lambda: batcher.depth == 6)
        runner.release()
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [type(result) for result in results] == [WindowScores, *4 * [InferenceFailed], *2 * [WindowScores]]
    assert results[1] is not results[2]
    assert "secret" not in str(results[1])
    assert "secret path" in caplog.text


class ShortRunner(FakeRunner):
    """A model that answers one window of each batch."""

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        output = super().run(waveform, lengths, embedding=embedding)
        return ModelOutput(output.logits[:1], output.scores[:1], None if output.embedding is None else output.embedding[:1])


@pytest.mark.parametrize("embedding", [False, True])
async def test_a_model_that_answers_fewer_windows_than_it_got_leaves_nobody_waiting(embedding: bool) -> None:
    runner = ShortRunner(batch_sizes=(1, 2))
    async with running(runner) as batcher:
        first = await busy(batcher, runner)
        waiting = [spawn(batcher.submit(marked(i), priority=LIVE, embedding=embedding)) for i in range(2)]
        await until(lambda: batcher.depth == 2)
        runner.release()
        async with asyncio.timeout(30):
            results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [type(result) for result in results] == [WindowScores, InferenceFailed, InferenceFailed]


async def test_scores_that_are_no_numbers_fail_only_their_window() -> None:
    class NanRunner(FakeRunner):
        def run(self, waveform, lengths, *, embedding):  # type: ignore[no-untyped-def]
            output = super().run(waveform, lengths, embedding=embedding)
            output.scores[waveform[:, 0] == 13] = np.nan
            return output

    runner = NanRunner()
    async with running(runner) as batcher:
        await busy(batcher, runner)
        waiting = [spawn(batcher.submit(marked(i), priority=LIVE)) for i in (12, 13)]
        await until(lambda: batcher.depth == 2)
        runner.release()
        good, bad = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(good, WindowScores)
    assert isinstance(bad, InferenceFailed)


async def test_reservations_are_refused_at_once_when_the_places_are_gone() -> None:
    async with running(FakeRunner(), max_queue_windows=4) as batcher:
        with batcher.reserve(3, LIVE) as held:
            assert held.num_windows == 3
            with pytest.raises(QueueFull, match=r"1 of its 4 live places.*needs 2.*SONOTAG_MAX_QUEUE_WINDOWS is 4") as caught:
                batcher.reserve(2, LIVE)
            assert caught.value.retry_after_s == 1.0
        held.release()
        batcher.reserve(4, LIVE).release()


async def test_bulk_holds_at_most_half_of_the_places() -> None:
    async with running(FakeRunner(), max_queue_windows=4) as batcher:
        assert (batcher.max_places(LIVE), batcher.max_places(BULK)) == (4, 2)
        with batcher.reserve(2, BULK):
            with pytest.raises(QueueFull, match="0 of its 2 bulk places"):
                batcher.reserve(1, BULK)
            batcher.reserve(2, LIVE).release()


async def test_a_request_that_can_never_fit_is_told_so() -> None:
    async with running(FakeRunner(), max_queue_windows=4) as batcher:
        with pytest.raises(QueueFull, match="can have 4 at most") as caught:
            batcher.reserve(5, LIVE)
        assert (caught.value.retryable, caught.value.retry_after_s) == (False, None), "it never fits"


async def test_a_file_goes_through_its_few_places_in_order() -> None:
    runner = FakeRunner(batch_sizes=(1, 2, 4))
    async with running(runner, max_queue_windows=8) as batcher:
        await busy(batcher, runner)
        with batcher.reserve(2, BULK) as held:
            windows = [spawn(batcher.submit(marked(i), priority=BULK, reservation=held)) for i in range(6)]
            await until(lambda: batcher.depth == 6)
            runner.release()
            await asyncio.gather(*windows)
    scored = [int(mark) for call in runner.calls[1:] for mark in sorted(call.waveform[:, 0])]
    assert scored == list(range(6))


async def test_a_stream_waits_for_a_place_behind_those_who_hold_them() -> None:
    runner = FakeRunner(batch_sizes=(1, 2))
    async with running(runner, max_queue_windows=2) as batcher:
        await busy(batcher, runner)
        held = batcher.reserve(2, LIVE)
        parked = spawn(batcher.submit(marked(1), priority=LIVE))
        await until(lambda: batcher.depth == 1)
        runner.release()
        assert (await batcher.submit(marked(2), priority=LIVE, reservation=held)).scores[0] == 1
        assert not parked.done()
        held.release()
        await parked


async def test_retry_after_follows_depth_and_measured_speed() -> None:
    clock = Clock()

    class SlowRunner(FakeRunner):
        def run(self, waveform, lengths, *, embedding):  # type: ignore[no-untyped-def]
            output = super().run(waveform, lengths, embedding=embedding)
            clock.now += 0.5
            return output

    runner = SlowRunner()
    async with running(runner, clock=clock) as batcher:
        assert batcher.retry_after_s() == 1.0
        await batcher.submit(marked(1), priority=LIVE)
        assert batcher.seconds_per_window == 0.5
        assert batcher.retry_after_s() == 0.1
        runner.hold()
        waiting = [spawn(batcher.submit(marked(1), priority=LIVE))]
        await started(runner, 2)
        waiting += [spawn(batcher.submit(marked(i), priority=LIVE)) for i in range(4)]
        await until(lambda: batcher.depth == 4)
        assert batcher.retry_after_s() == 2.5
        runner.release()
        await asyncio.gather(*waiting)


async def test_stop_finishes_what_waits_and_refuses_what_comes() -> None:
    runner = FakeRunner()
    async with running(runner, max_queue_windows=2) as batcher:
        await busy(batcher, runner)
        batcher.reserve(1, LIVE)  # an owner that never releases must not hold up the end
        waiting = [spawn(batcher.submit(marked(i), priority=priority)) for i in range(5) for priority in (LIVE, BULK)]
        await until(lambda: batcher.depth == 10)
        stops = [asyncio.ensure_future(batcher.stop()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await batcher.submit(marked(1), priority=LIVE)
        with pytest.raises(Draining):
            batcher.reserve(1, LIVE)
        runner.release()
        async with asyncio.timeout(30):
            await asyncio.gather(*stops, *waiting)


async def test_a_batcher_that_never_started_stops_without_leaving_anyone_waiting() -> None:
    runner = FakeRunner()
    batcher = Batcher(runner, max_queue_windows=2, observer=NullObserver())
    waiting = [spawn(batcher.submit(marked(i), priority=LIVE)) for i in range(3)]
    await until(lambda: batcher.depth == 3)
    await batcher.stop()
    await batcher.stop()
    assert [type(result) for result in await asyncio.gather(*waiting, return_exceptions=True)] == 3 * [Draining]
    assert runner.closed
    assert not runner.calls


async def test_a_dead_thread_fails_everyone_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenClock(Clock):
        def __call__(self) -> float:
            if self.now < 0:
                raise OSError("the clock broke")
            return self.now

    clock = BrokenClock()
    runner = FakeRunner()
    batcher = Batcher(runner, max_queue_windows=8, clock=clock, observer=NullObserver())
    batcher.start()
    first = await busy(batcher, runner)
    second = spawn(batcher.submit(marked(1), priority=LIVE))
    await until(lambda: batcher.depth == 1)
    clock.now = -1.0
    runner.release()
    async with asyncio.timeout(30):
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [InferenceFailed, InferenceFailed]
    clock.now = 1.0
    with pytest.raises(InferenceFailed, match="stopped working"):
        await batcher.submit(marked(1), priority=LIVE)
    await asyncio.wait_for(batcher.stop(), 30)
    assert "the thread of model fake died" in caplog.text


async def test_the_observer_hears_depth_batches_and_stages() -> None:
    recorder = Recorder()
    runner = FakeRunner()
    async with running(runner, observer=recorder) as batcher:
        first = await busy(batcher, runner)
        waiting = [spawn(batcher.submit(marked(i), priority=LIVE)) for i in range(3)]
        await until(lambda: batcher.depth == 3)
        runner.release()
        await asyncio.gather(first, *waiting)
    assert recorder.batches == [1, 3]
    assert (recorder.stages.count("queue"), recorder.stages.count("infer")) == (4, 2)
    assert max(recorder.depths) == 3
    assert recorder.depths[-1] == 0


@pytest.mark.parametrize(
    "waveform",
    [np.zeros(399, np.int16), np.zeros(16_001, np.int16), np.zeros(800, np.float32), np.zeros((1, 800), np.int16)],
)
async def test_windows_of_another_length_or_kind_are_refused(waveform: Int16Array) -> None:
    async with running(FakeRunner()) as batcher:
        with pytest.raises(ValueError):
            await batcher.submit(waveform, priority=LIVE)


@pytest.mark.parametrize("size", [0, 5])
def test_a_batch_size_that_was_not_warmed_up_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        Batcher(FakeRunner(), max_queue_windows=2, max_batch_size=size, observer=NullObserver())


async def test_the_speed_is_known_before_anybody_asks() -> None:
    runner = FakeRunner(delay_seconds=0.001, num_lanes=2)
    batcher = Batcher(runner, max_queue_windows=4, observer=NullObserver())
    assert batcher.live.possible is None
    await asyncio.to_thread(batcher.prepare)
    await asyncio.to_thread(batcher.measure_speed)
    assert sorted({len(call.lengths) for call in runner.calls}) == [1, 2, 4]
    assert {call.thread for call in runner.calls} == set(runner.prepared_threads)
    assert batcher.live.possible is not None
    assert 0 < batcher.live.possible < 2 * 4 / 0.001
    batcher.start()
    await batcher.stop()


async def test_what_lies_between_two_batches_is_a_cost_while_windows_wait() -> None:
    clock = Clock()
    runner = FakeRunner(batch_sizes=(1,))
    async with running(runner, clock=clock) as batcher:
        runner.hold()
        jobs = [asyncio.create_task(batcher.submit(level(1, 16_000), priority=LIVE)) for _ in range(2)]
        await asyncio.to_thread(runner.wait_for_runs, 1)
        clock.now += 1.0
        runner.release(1)
        await jobs[0]
        assert batcher.live.possible == pytest.approx(1.0)
        clock.now += 1.0  # whichever side of the second run's start this falls on, the model had not done more
        runner.release()
        await jobs[1]
        assert batcher.live.possible == pytest.approx(1.0)
