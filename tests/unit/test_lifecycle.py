from __future__ import annotations

import asyncio

import pytest

from service.errors import BundleError, Draining, NotReady
from service.lifecycle import Lifecycle


def ready_lifecycle() -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    return lifecycle


def test_nothing_is_admitted_before_the_models_are_warm() -> None:
    lifecycle = Lifecycle()
    with pytest.raises(NotReady) as caught, lifecycle.admit():
        pass
    assert caught.value.http_status == 503
    assert caught.value.retry_after_s
    assert not lifecycle.is_ready
    lifecycle.mark_ready()
    with lifecycle.admit():
        assert lifecycle.num_active == 1
    assert lifecycle.num_active == 0


def test_a_failed_start_keeps_its_reason_and_admits_nothing() -> None:
    lifecycle = Lifecycle()
    error = BundleError("bundle 'tiny' is altered")
    lifecycle.fail(error)
    assert lifecycle.state == "failed"
    assert lifecycle.failed is error
    with pytest.raises(NotReady), lifecycle.admit():
        pass
    lifecycle.mark_ready()
    lifecycle.begin_drain()
    lifecycle.mark_stopped()
    assert lifecycle.state == "failed"


def test_a_service_that_was_ready_does_not_fail_its_start_afterwards() -> None:
    lifecycle = ready_lifecycle()
    lifecycle.fail(BundleError("late"))
    assert lifecycle.is_ready
    assert lifecycle.failed is None


def test_a_drain_tells_everything_under_way_once_and_admits_nothing_more() -> None:
    lifecycle = ready_lifecycle()
    told: list[str] = []
    with lifecycle.admit(lambda: told.append("first")), lifecycle.admit(), lifecycle.admit(lambda: told.append("third")):
        lifecycle.begin_drain()
        lifecycle.begin_drain()
        assert told == ["first", "third"]
        with pytest.raises(Draining), lifecycle.admit():
            pass
        assert lifecycle.num_active == 3
    assert lifecycle.state == "draining"
    lifecycle.mark_stopped()
    assert lifecycle.state == "stopped"
    with pytest.raises(Draining), lifecycle.admit():
        pass


def test_an_activity_that_left_is_not_told() -> None:
    lifecycle = ready_lifecycle()
    told: list[str] = []
    with lifecycle.admit(lambda: told.append("gone")):
        pass
    lifecycle.begin_drain()
    assert told == []


def test_an_activity_that_fails_has_left() -> None:
    lifecycle = ready_lifecycle()
    with pytest.raises(ZeroDivisionError), lifecycle.admit():
        raise ZeroDivisionError
    assert lifecycle.num_active == 0


def test_a_drain_that_begins_while_the_model_loads_is_not_undone() -> None:
    lifecycle = Lifecycle()
    lifecycle.begin_drain()
    lifecycle.mark_ready()
    assert lifecycle.state == "draining"


def test_an_activity_may_leave_from_within_its_drain_callback() -> None:
    lifecycle = ready_lifecycle()
    first = lifecycle.admit(lambda: first.__exit__(None, None, None))
    told: list[str] = []
    second = lifecycle.admit(lambda: told.append("second"))
    first.__enter__()
    second.__enter__()
    lifecycle.begin_drain()
    assert told == ["second"]
    assert lifecycle.num_active == 1


async def test_waiting_ends_when_the_last_activity_leaves() -> None:
    lifecycle = ready_lifecycle()
    assert await lifecycle.wait_idle(None)
    first, second = lifecycle.admit(), lifecycle.admit()
    first.__enter__()
    second.__enter__()
    waiting = asyncio.create_task(lifecycle.wait_idle(60))
    first.__exit__(None, None, None)
    await asyncio.sleep(0)
    assert not waiting.done()
    second.__exit__(None, None, None)
    assert await waiting


async def test_waiting_gives_up_at_its_time_out() -> None:
    lifecycle = ready_lifecycle()
    with lifecycle.admit():
        assert not await lifecycle.wait_idle(0)


def test_waits_are_interrupted_once_the_time_is_up_and_later_ones_at_once() -> None:
    lifecycle = ready_lifecycle()
    told: list[str] = []
    with lifecycle.interruptible(lambda: told.append("over")):
        pass
    with lifecycle.interruptible(lambda: told.append("first")):
        lifecycle.begin_drain()
        assert told == []
        lifecycle.check_time()
        assert lifecycle.cut_short() == 1
        with pytest.raises(Draining):
            lifecycle.check_time()
        with lifecycle.interruptible(lambda: told.append("late")):
            assert told == ["first", "late"]
    assert lifecycle.cut_short() == 0


def test_readiness_is_told_when_it_changes_and_only_then() -> None:
    told: list[bool] = []
    lifecycle = Lifecycle(told.append)
    lifecycle.mark_ready()
    lifecycle.mark_ready()
    assert told == [True]
    lifecycle.begin_drain()
    lifecycle.begin_drain()
    lifecycle.mark_stopped()
    assert told == [True, False]


def test_a_start_that_fails_or_is_ended_was_never_ready() -> None:
    told: list[bool] = []
    Lifecycle(told.append).fail(BundleError("bundle 'tiny' is altered"))
    Lifecycle(told.append).begin_drain()
    assert told == []


def test_a_service_that_breaks_is_not_ready_says_why_and_drains() -> None:
    told: list[str] = []
    lifecycle = ready_lifecycle()
    with lifecycle.admit(lambda: told.append("drain")):
        lifecycle.break_down("model 'tiny' does not answer")
        lifecycle.break_down("something else")
        assert told == ["drain"]
        assert not lifecycle.is_ready
        assert lifecycle.breakdown == "model 'tiny' does not answer"
        with pytest.raises(NotReady, match="model 'tiny' does not answer; this worker is being replaced"):
            lifecycle.check_ready()
