from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.pool import run_in_pool


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


async def test_the_result_of_the_function_is_returned(executor: ThreadPoolExecutor) -> None:
    assert await run_in_pool(executor, threading.get_ident) != threading.get_ident()


async def test_what_the_function_raises_is_raised(executor: ThreadPoolExecutor) -> None:
    with pytest.raises(ZeroDivisionError):
        await run_in_pool(executor, lambda: 1 // 0)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancelled_caller_leaves_when_the_thread_is_done_and_not_before(
    executor: ThreadPoolExecutor, fails: bool
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go_on.wait(30)
        if fails:
            raise ValueError("nobody hears this")

    caller = asyncio.ensure_future(run_in_pool(executor, block))
    await asyncio.to_thread(begun.wait, 30)
    caller.cancel()
    for _ in range(2):
        done, _ = await asyncio.wait([caller], timeout=0.02)
        assert not done
        caller.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
