"""What holds with several lanes; with one, `test_batcher.py` says it."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InferenceFailed
from service.inference.batcher import Batcher, WindowScores
from service.inference.policy import Priority, WindowQueue
from service.inference.runner import Int16Array, Int64Array, ModelOutput
from service.inference.staging import Staging
from service.observer import NullObserver
from tests.support.clock import Clock
from tests.support.runners import WAIT_SECONDS, FakeRunner, expected_scores, level

LIVE = Priority.LIVE


def make_batcher(runner: FakeRunner, **options: object) -> Batcher:
    return Batcher(runner, **({"max_queue_windows": 64, "observer": NullObserver()} | options))  # type: ignore[arg-type]


async def all_busy(batcher: Batcher, runner: FakeRunner) -> list[asyncio.Future[WindowScores]]:
    """Let each lane take one window and hold it."""
    runner.hold()
    taken = []
    for num_runs in range(1, runner.spec.num_lanes + 1):
        taken.append(asyncio.ensure_future(batcher.submit(level(num_runs, 500), priority=LIVE)))
        await asyncio.to_thread(runner.wait_for_runs, num_runs)
    return taken


async def test_two_lanes_run_two_batches_at_once_while_a_third_is_put_together() -> None:
    runner = FakeRunner(num_lanes=2)
    batcher = make_batcher(runner)
    batcher.start()
    running = await all_busy(batcher, runner)
    waiting = [asyncio.ensure_future(batcher.submit(level(3, 600 + i), priority=LIVE)) for i in range(3)]
    while batcher.depth < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    runner.release()  # the runner checks that nobody wrote to the two buffers that it holds
    scores = await asyncio.gather(*running, *waiting)
    assert [int(one.scores.argmax()) for one in scores] == [1, 2, 3, 3, 3]
    assert len({call.thread for call in runner.calls}) == 2
    assert {call.thread for call in runner.calls} == set(runner.prepared_threads)
    await batcher.stop()
    assert runner.closed


async def test_a_lane_that_dies_fails_its_own_batch_and_the_other_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenClock:
        def __init__(self) -> None:
            self.broken_thread: int | None = None

        def __call__(self) -> float:
            if threading.get_ident() == self.broken_thread:
                raise OSError("the clock broke")
            return 1.0

    clock, runner = BrokenClock(), FakeRunner(num_lanes=2)
    batcher = make_batcher(runner, clock=clock)
    batcher.start()
    running = await all_busy(batcher, runner)
    clock.broken_thread = runner.calls[0].thread
    runner.release()
    async with asyncio.timeout(30):
        lost, kept = await asyncio.gather(*running, return_exceptions=True)
        assert isinstance(lost, InferenceFailed)
        assert isinstance(kept, WindowScores)
        for mark in (1, 2, 3, 1, 2, 3):
            assert (await batcher.submit(level(mark, 700), priority=LIVE)).scores[mark] == 1
        assert not runner.closed
        clock.broken_thread = runner.calls[1].thread
        with pytest.raises(InferenceFailed, match="stopped working"):
            await batcher.submit(level(1, 700), priority=LIVE)
        await batcher.stop()
    assert runner.closed
    assert "the thread of model fake died" in caplog.text


def lack_memory(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("broken", [(WindowQueue, "record_run"), (Staging, "take_back")])
async def test_a_lane_that_dies_as_its_run_ends_fails_that_batch(
    broken: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = FakeRunner()
    batcher = make_batcher(runner)
    batcher.start()
    monkeypatch.setattr(*broken, lack_memory)
    async with asyncio.timeout(WAIT_SECONDS):
        with pytest.raises(InferenceFailed):
            await batcher.submit(level(1, 700), priority=LIVE)
        await batcher.stop()
    assert runner.closed


async def test_a_lane_that_dies_as_it_takes_a_batch_answers_the_one_before_and_fails_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = FakeRunner()
    batcher = make_batcher(runner)
    batcher.start()
    [first] = await all_busy(batcher, runner)
    second = asyncio.ensure_future(batcher.submit(level(2, 700), priority=LIVE))
    while batcher.depth < 1:  # noqa: ASYNC110
        await asyncio.sleep(0)
    monkeypatch.setattr(Staging, "hand_over", lack_memory)
    runner.release()
    async with asyncio.timeout(WAIT_SECONDS):
        assert (await first).scores[1] == 1
        with pytest.raises(InferenceFailed):
            await second
        await batcher.stop()
    assert runner.closed


async def test_a_lane_that_cannot_get_ready_stops_the_start_and_ends_the_others() -> None:
    class HalfReady(FakeRunner):
        def prepare_thread(self) -> None:
            super().prepare_thread()
            if len(self.prepared_threads) == 2:
                raise MemoryError("no room for a second one")

    runner = HalfReady(num_lanes=2)
    batcher = make_batcher(runner)
    with pytest.raises(MemoryError, match="no room"):
        await asyncio.to_thread(batcher.prepare)
    async with asyncio.timeout(30):
        while not runner.closed:  # noqa: ASYNC110
            await asyncio.sleep(0)
    with pytest.raises(InferenceFailed):
        await batcher.submit(level(1, 500), priority=LIVE)


async def test_a_window_costs_the_time_between_two_ends_where_runs_overlap() -> None:
    clock, runner = Clock(0.0), FakeRunner(num_lanes=2, batch_sizes=(1,))
    batcher = make_batcher(runner, clock=clock)
    batcher.start()
    first, second = await all_busy(batcher, runner)
    clock.now = 4.0
    runner.release(1)
    await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    assert batcher.seconds_per_window == 4.0
    clock.now = 5.0
    runner.release()
    await asyncio.gather(first, second)
    assert batcher.seconds_per_window == pytest.approx(4.0 + 0.2 * (1.0 - 4.0))
    await batcher.stop()


async def test_lanes_that_always_have_something_to_do_share_the_cost() -> None:
    clock = Clock(0.0)

    class Pairs(FakeRunner):
        """Two runs take four seconds, side by side."""

        def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
            meeting.wait(WAIT_SECONDS)
            return super().run(waveform, lengths, embedding=embedding)

    def move() -> None:
        clock.now += 4.0

    meeting = threading.Barrier(2, move)
    batcher = make_batcher(Pairs(num_lanes=2, batch_sizes=(1,)), clock=clock)
    batcher.start()
    windows = [batcher.submit(level(1, 500), priority=LIVE) for _ in range(4)]
    await asyncio.gather(*windows)
    # The first two began beside each other, after idleness, which says nothing; the other two had waited for them.
    assert batcher.live.possible == pytest.approx(0.5)
    await batcher.stop()


async def test_a_run_alone_costs_less_than_it_takes_where_lanes_share_the_machine() -> None:
    class Halves(FakeRunner):
        """Two runs at once take as long as one."""

        def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
            if len(self.calls) == 3:  # those that were alone are done
                self.delay_seconds = 0.001
            return super().run(waveform, lengths, embedding=embedding)

    clock, runner = Clock(0.0), Halves(num_lanes=2, batch_sizes=(1,), delay_seconds=0.1)
    batcher = make_batcher(runner, clock=clock)
    await asyncio.to_thread(batcher.prepare)
    await asyncio.to_thread(batcher.measure_speed)
    batcher.start()
    measured = batcher.live.possible
    assert measured is not None
    runner.hold()
    job = asyncio.ensure_future(batcher.submit(level(1, 500), priority=LIVE))
    await asyncio.to_thread(runner.wait_for_runs, 10)
    clock.now += 1.0
    runner.release()
    await job
    possible = batcher.live.possible
    assert possible is not None
    assert 1.0 < possible < measured
    await batcher.stop()


async def test_a_call_in_lanes_that_fails_tells_the_caller_and_the_lanes_go_on() -> None:
    runner = FakeRunner(num_lanes=2, failures=[RuntimeError("ill")])
    batcher = make_batcher(runner)
    await asyncio.to_thread(batcher.prepare)
    with pytest.raises(RuntimeError, match="ill"):
        await asyncio.to_thread(batcher.measure_speed)
    batcher.start()
    assert (await batcher.submit(level(2, 500), priority=LIVE)).scores[2] == 1
    await batcher.stop()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_lanes=st.integers(1, 3),
    marks=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(Priority), st.booleans()), min_size=1, max_size=40),
    failures=st.lists(st.sampled_from([None, None, RuntimeError("no"), SystemExit(1)]), max_size=8),
)
def test_every_window_gets_its_own_answer_or_a_failure_however_many_lanes_there_are(
    num_lanes: int, marks: list[tuple[int, Priority, bool]], failures: list[BaseException | None]
) -> None:
    async def run() -> None:
        runner = FakeRunner(num_lanes=num_lanes, failures=failures)
        batcher = make_batcher(runner, max_queue_windows=8)
        await asyncio.to_thread(batcher.prepare)
        batcher.start()
        windows = [level(mark, 400 + 3 * place) for place, (mark, _, _) in enumerate(marks)]
        jobs = [
            batcher.submit(window, priority=priority, embedding=embedding)
            for window, (_, priority, embedding) in zip(windows, marks, strict=True)
        ]
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*jobs, return_exceptions=True)
            await batcher.stop()
        for window, (_, _, embedding), answer in zip(windows, marks, answers, strict=True):
            if isinstance(answer, WindowScores):
                assert (answer.scores == expected_scores(window)).all()
                assert (answer.embedding is not None) == embedding
                assert not embedding or answer.embedding[0] == len(window)  # type: ignore[index]
            else:
                assert isinstance(answer, InferenceFailed)
        assert any(failures) or all(isinstance(answer, WindowScores) for answer in answers)
        assert runner.closed

    asyncio.run(run())


async def test_a_window_waits_only_where_no_lane_is_about_to_take_it() -> None:
    class Depths(NullObserver):
        def __init__(self) -> None:
            self.told: list[int] = []

        def queue_depth(self, model: str, num_windows: int) -> None:
            self.told.append(num_windows)

    runner, depths = FakeRunner(batch_sizes=(1,), num_lanes=2), Depths()
    batcher = make_batcher(runner, observer=depths)
    batcher.start()
    runner.hold()
    tasks = [asyncio.ensure_future(batcher.submit(level(1, 500), priority=LIVE)) for _ in range(2)]
    await asyncio.to_thread(runner.wait_for_runs, 2)
    assert depths.told == [0, 0]
    tasks += [asyncio.ensure_future(batcher.submit(level(1, 500), priority=LIVE)) for _ in range(3)]
    while len(depths.told) < 5:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert depths.told == [0, 0, 1, 2, 3]
    runner.release()
    await asyncio.gather(*tasks)
    assert depths.told[-1] == batcher.depth == 0
    await batcher.stop()
