"""The threads that a service runs a model in, for those who measure the model without it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from service.inference.pinned import allocate_pinned
from service.inference.runner import Int16Array, Int64Array, Runner

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """A thread for each lane of a runner, prepared one after another as the service's are; a runner has one `Lanes`, once.

    On a GPU a prepared thread has the session with bound buffers and CUDA graphs, which no other thread gets to run.

    Args:
        runner: Open; the caller closes it.

    Raises:
        BundleError: A thread cannot be prepared.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"lane-{lane}") for lane in range(runner.spec.num_lanes)]
        try:
            for thread in self._threads:
                thread.submit(runner.prepare_thread).result()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._threads)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Call a function with each item, in the lanes in turn, beside each other; return what it returned, in order.

        Raises:
            Exception: What the function raised.
        """
        futures: list[Future[Result]] = [
            thread.submit(function, item) for thread, item in zip(itertools.cycle(self._threads), items, strict=False)
        ]
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads; a GPU's sessions and their memory go with them."""
        for thread in self._threads:
            thread.shutdown()


def place(waveform: Int16Array, lengths: Int64Array, provider: str) -> tuple[Int16Array, Int64Array]:
    """Return a batch where the service has its batches: for a GPU in memory that it copies from without a detour."""
    if provider == "cpu":
        return np.ascontiguousarray(waveform), lengths
    pinned = allocate_pinned(waveform.shape, np.int16)
    pinned[:] = waveform
    return pinned, lengths
