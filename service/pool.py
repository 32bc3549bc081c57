"""Work that blocks, in threads, for callers that may be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def run_in_pool(executor: Executor, function: Callable[[], T]) -> T:
    """Run something that blocks in a pool. A caller that is cancelled leaves when it has ended, and not before.

    A thread cannot be stopped, and what it reads is closed as soon as the caller is gone: a decoder would lose its file, or
    its own memory, in the middle of its work.

    Raises:
        Exception: Whatever the function raises.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, function)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():  # however often it is cancelled
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        future.exception()  # it has nobody left to tell
        raise
