from __future__ import annotations

import asyncio

import pytest

from service.errors import InferenceFailed
from service.inference.batcher import Batcher
from service.inference.policy import Priority
from service.inference.watchdog import HungRun, Watchdog
from service.observer import NullObserver
from tests.support.clock import Clock
from tests.support.runners import FakeRunner, level


async def test_a_run_that_does_not_come_back_is_noticed_by_the_clock_and_its_callers_are_told() -> None:
    clock, runner = Clock(), FakeRunner()
    batcher = Batcher(runner, max_queue_windows=8, max_batch_size=1, clock=clock, observer=NullObserver())
    watchdog = Watchdog([batcher], 30, clock)
    batcher.start()
    try:
        assert watchdog.check() is None
        runner.hold()
        calls = [asyncio.create_task(batcher.submit(level(1, 16_000), priority=Priority.LIVE)) for _ in range(3)]
        await asyncio.to_thread(runner.wait_for_runs, 1)
        clock.now += 30
        assert watchdog.check() is None, "the limit itself is allowed"
        clock.now += 0.5
        assert watchdog.check() == HungRun("fake", 30.5)
        assert await watchdog.watch() == HungRun("fake", 30.5)
        batcher.give_up()
        for call in calls:
            with pytest.raises(InferenceFailed, match="does not answer; this worker is being replaced"):
                await call
        with pytest.raises(InferenceFailed, match="being replaced"):
            await batcher.submit(level(1, 16_000), priority=Priority.LIVE)
        with pytest.raises(InferenceFailed, match="being replaced"):
            batcher.reserve(1, Priority.BULK)
        await asyncio.wait_for(batcher.stop(), 30)
        assert not runner.closed, "what hangs must not be closed under its own feet"
    finally:
        runner.release()
        await asyncio.wait_for(batcher.stop(), 30)


async def test_a_run_that_comes_back_is_none() -> None:
    clock, runner = Clock(), FakeRunner()
    batcher = Batcher(runner, max_queue_windows=8, clock=clock, observer=NullObserver())
    watchdog = Watchdog([batcher], 30, clock)
    batcher.start()
    try:
        for _ in range(3):
            await batcher.submit(level(1, 16_000), priority=Priority.LIVE)
            clock.now += 100
            assert watchdog.check() is None
    finally:
        await asyncio.wait_for(batcher.stop(), 30)
