"""The preallocated buffers that batches are put together in: one for each run under way, and one that is filled meanwhile."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from service.inference.pinned import allocate_pinned
from service.inference.runner import Int16Array, Int64Array, ModelSpec


class HasWaveform(Protocol):
    """What can be staged: anything hashable with a waveform, int16 `[n]`, that does not change while it waits."""

    @property
    def waveform(self) -> Int16Array:
        """int16 `[n]`."""
        ...

    @property
    def batch_samples(self) -> int:
        """The length of the batch that it may be in, n or more."""
        ...


W = TypeVar("W", bound=HasWaveform)


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """A batch ready to run.

    Attributes:
        windows: Row i's window; the rows past them are padding.
        waveform: int16 `[rows, batch_samples]`, untouched until `Staging.take_back`.
        lengths: int64 `[rows]`.
        buffer: Which buffer it is in; None where it is the window itself.
    """

    windows: tuple[W, ...]
    waveform: Int16Array
    lengths: Int64Array
    buffer: int | None


class Staging(Generic[W]):
    """Copies windows into the next batch's buffer as they come, so that nothing is left to copy when the runner is free.

    What is copied is a guess: the queue decides who runs when the runner is free, and a row whose window is not among them
    is simply written over. A batch has one length: windows of another one than those that are there are not copied ahead. Not
    thread-safe: the batcher calls it under its lock.

    A CPU that takes one window at a time runs it where it is, unless it has to be padded.

    Args:
        spec: The model; its provider decides whether batches are padded to the sizes it was warmed up for.
        max_batch_size: How many rows a buffer has.

    Attributes:
        copies_ahead: Whether windows are copied before they are handed over.
    """

    def __init__(self, spec: ModelSpec, max_batch_size: int) -> None:
        self.copies_ahead = max_batch_size > 1 or spec.provider != "cpu"
        self._min_samples = spec.min_samples
        # CUDA picks and prepares kernels for each new shape, so only warm sizes run there. On the CPU a padding row costs as
        # much as a real one, and a new size costs nothing.
        self._sizes = spec.batch_sizes if spec.provider != "cpu" else ()
        rows = next((size for size in self._sizes if size >= max_batch_size), max_batch_size)
        # A GPU copies from memory that stays where it is without a detour.
        allocate = allocate_pinned if spec.provider != "cpu" else np.zeros
        self._buffers = [
            (allocate((rows * spec.window_samples,), np.int16), np.full(rows, spec.min_samples, np.int64))
            for _ in range(spec.num_lanes + 1)
        ]
        self._filling = 0
        self._free_buffers = list(range(1, len(self._buffers)))
        self._num_rows = rows
        self._batch_samples = spec.window_samples
        self._max_batch_size = max_batch_size
        self._row_of: dict[W, int] = {}
        self._free_rows = list(range(max_batch_size))

    def stage(self, window: W) -> None:
        """Copy a window into the next batch, if it is not there yet and there is a row left."""
        if not self.copies_ahead:
            return
        if not self._row_of:
            self._batch_samples = window.batch_samples
        if self._free_rows and window not in self._row_of and window.batch_samples == self._batch_samples:
            self._row_of[window] = heapq.heappop(self._free_rows)
            self._write(self._row_of[window], window.waveform)

    def unstage(self, window: W) -> None:
        """Free a window's row, if it has one."""
        row = self._row_of.pop(window, None)
        if row is not None:
            heapq.heappush(self._free_rows, row)

    def hand_over(self, windows: Sequence[W]) -> Batch[W]:
        """Make the batch of these windows, and begin an empty one in another buffer. At most one batch a lane is out at once.

        Args:
            windows: 1 to ``max_batch_size`` of them, all of one `batch_samples`. Their order among the rows may differ from
                the order given.
        """
        count, first = len(windows), windows[0]
        if not self.copies_ahead and len(first.waveform) == first.batch_samples:
            return Batch((first,), first.waveform[np.newaxis], np.array([first.batch_samples], np.int64), None)
        if first.batch_samples != self._batch_samples:
            self._row_of.clear()
            self._batch_samples = first.batch_samples
        placed: dict[int, W] = {}
        missing: list[W] = []
        for window in windows:
            row = self._row_of.get(window, count)
            if row < count:
                placed[row] = window
            else:
                missing.append(window)
        for row in range(count):
            if row not in placed:
                placed[row] = missing.pop()
                self._write(row, placed[row].waveform)
        waveform, lengths = self._views()
        num_rows = next((size for size in self._sizes if size >= count), count)
        lengths[count:num_rows] = self._min_samples
        handed_over, self._filling = self._filling, self._free_buffers.pop()
        self._row_of.clear()
        self._free_rows = list(range(self._max_batch_size))
        return Batch(tuple(placed[row] for row in range(count)), waveform[:num_rows], lengths[:num_rows], handed_over)

    def take_back(self, batch: Batch[W]) -> None:
        """Use a batch's buffer again: its run has ended."""
        if batch.buffer is not None:
            self._free_buffers.append(batch.buffer)

    def _views(self) -> tuple[Int16Array, Int64Array]:
        """Return the next batch's rows, int16 `[rows, batch_samples]`, at the front of their buffer, and their lengths."""
        samples, lengths = self._buffers[self._filling]
        return samples[: self._num_rows * self._batch_samples].reshape(self._num_rows, self._batch_samples), lengths

    def _write(self, row: int, window: Int16Array) -> None:
        waveform, lengths = self._views()
        waveform[row, : len(window)] = window
        waveform[row, len(window) :] = 0  # the graph masks it; this keeps a run from depending on what ran before
        lengths[row] = len(window)
