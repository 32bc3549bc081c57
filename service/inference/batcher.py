"""Many callers, one model: windows wait in a bounded queue and leave it in batches. One `Batcher` for each model.

::

    submit (event loop) ── WindowQueue ── take ── Runner.run (own thread) ── one future for each window (event loop)
              └─ copied at once into the next batch's buffer, while the runner works on the other one

The runner's thread takes whatever waits as soon as it is free: no timer holds a window back, and no turn of the event loop
lies between two batches. Queue and buffers are shared with that thread under one lock, held for microseconds. Every future is
resolved whatever happens: a failed batch fails its own windows, a dead thread fails all that wait.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import numpy as np

from service.errors import DeadlineExceeded, Draining, InferenceFailed, QueueFull, ServiceError
from service.inference.policy import Entry, Grant, Priority, WindowQueue
from service.inference.runner import FloatArray, Int16Array, ModelOutput, ModelSpec, Runner
from service.inference.staging import Batch, Staging
from service.observer import Observer

logger = logging.getLogger(__name__)

MIN_RETRY_AFTER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class WindowScores:
    """What the model said about one window.

    Attributes:
        logits: float32 `[labels]`.
        scores: float32 `[labels]`, each in [0, 1].
        embedding: float32 `[embedding_size]`, or None when it was not asked for.
        queue_seconds: From `Batcher.submit` to the start of the run.
        infer_seconds: How long the run of its whole batch took.
    """

    logits: FloatArray
    scores: FloatArray
    embedding: FloatArray | None
    queue_seconds: float
    infer_seconds: float


@dataclass(slots=True, eq=False)
class _Window:
    waveform: Int16Array
    embedding: bool
    submitted_at: float
    answer: asyncio.Future[WindowScores] = field(repr=False)
    alarm: asyncio.TimerHandle | None = field(default=None, repr=False)


class Reservation:
    """Places of the queue that one request or file holds; a context manager. Made by `Batcher.reserve`."""

    def __init__(self, batcher: Batcher, grant: Grant) -> None:
        self._batcher = batcher
        self._grant = grant

    @property
    def num_windows(self) -> int:
        """How many windows may wait under it at once."""
        return self._grant.places

    def release(self) -> None:
        """Give the places back. Windows that still wait keep theirs until they leave. Twice is once."""
        self._batcher._release(self._grant)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class Batcher:
    """Shares one runner among many callers. Its methods belong to the event loop that called `start`.

    Args:
        runner: The model. The batcher owns it: `stop` closes it.
        max_queue_windows: Places in the queue; bulk may hold half of them.
        max_batch_size: The most windows in a batch; None for the largest size the runner was warmed up for.
        clock: Seconds, rising; deadlines are on it. Called from the runner's thread too.
        observer: Is told depth, batch sizes and the stages "queue" and "infer", on the event loop.

    Raises:
        ValueError: A size is below 1, or ``max_batch_size`` above the runner's largest.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        max_queue_windows: int,
        max_batch_size: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer,
    ) -> None:
        largest = runner.spec.batch_sizes[-1]
        self._max_batch_size = largest if max_batch_size is None else max_batch_size
        if not 1 <= self._max_batch_size <= largest:
            raise ValueError(f"max_batch_size is {max_batch_size}, it must be 1 to {largest}")
        self._runner = runner
        self._spec = runner.spec
        self._clock = clock
        self._observer = observer
        self._queue: WindowQueue[_Window] = WindowQueue(max_queue_windows)
        self._staging: Staging[_Window] = Staging(self._spec, self._max_batch_size)
        self._running: tuple[_Window, ...] = ()
        self._changed = threading.Condition()
        self._refusal: Callable[[], ServiceError] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, name=f"model-{self._spec.name}", daemon=True)
        self._finished = asyncio.Event()

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def runner(self) -> Runner:
        """The model itself; only the batcher's thread runs it."""
        return self._runner

    @property
    def depth(self) -> int:
        """How many windows wait for the runner."""
        with self._changed:
            return len(self._queue)

    @property
    def seconds_per_window(self) -> float | None:
        """Moving average of what a window costs the runner; None until the first batch."""
        return self._queue.seconds_per_window

    def retry_after_s(self) -> float:
        """Return in how many seconds what waits now will be done, at the speed measured so far; at least 0.1."""
        with self._changed:
            num_windows = len(self._queue) + len(self._running)
            each = self._queue.seconds_per_window
        return 1.0 if each is None else max(MIN_RETRY_AFTER_SECONDS, num_windows * each)

    # Callers

    def max_places(self, priority: Priority) -> int:
        """Return how many places of the queue all reservations of a priority may hold together."""
        return self._queue.limit(priority)

    def reserve(self, num_windows: int, priority: Priority) -> Reservation:
        """Admit a request: hold places of the queue for its windows, or refuse at once.

        Args:
            num_windows: How many windows it will have in the queue at a time, 1 or more; a long file needs a few.
            priority: Whose places: bulk may hold at most half of all.

        Raises:
            QueueFull: So many places are not free, or there never are so many.
            Draining: The batcher was stopped.
            InferenceFailed: The model's thread died.
        """
        with self._changed:
            self._refuse_when_stopped()
            grant = self._queue.reserve(num_windows, priority)
            waiting, free, limit = len(self._queue), self._queue.free_places(priority), self._queue.limit(priority)
        if grant is not None:
            return Reservation(self, grant)
        if num_windows > limit:
            raise QueueFull(
                f"the request needs {num_windows} places in the queue and a {priority.value} request can have {limit} at most "
                f"(SONOTAG_MAX_QUEUE_WINDOWS is {self._queue.capacity})",
                retry_after_s=None,
            )
        raise QueueFull(
            f"the queue is full: {waiting} windows wait, {free} of its {limit} {priority.value} places are free, "
            f"the request needs {num_windows} (SONOTAG_MAX_QUEUE_WINDOWS is {self._queue.capacity})",
            retry_after_s=self.retry_after_s(),
        )

    async def submit(
        self,
        waveform: Int16Array,
        *,
        priority: Priority,
        deadline: float | None = None,
        embedding: bool = False,
        reservation: Reservation | None = None,
    ) -> WindowScores:
        """Score one window. Cancelling the caller drops it.

        Args:
            waveform: int16 `[n]`, from ``spec.min_samples`` to ``spec.window_samples``; it must not change until this returns.
            priority: Its line in the queue.
            deadline: On the batcher's clock, when the result is of no more use; None for never.
            embedding: Whether the embedding is wanted.
            reservation: Whose place it uses; it waits behind the reservation's own windows when all places are in use. Without
                one it waits, first come first served, for a free place of the queue.

        Raises:
            ValueError: The waveform is not int16 `[n]` or n is out of range.
            DeadlineExceeded: It cannot be done in time; it was not scored.
            InferenceFailed: The model failed on its batch.
            Draining: The batcher was stopped before.
        """
        self._check_window(waveform)
        now = self._clock()
        if deadline is not None and now >= deadline:
            raise self._too_late()
        window = _Window(waveform, embedding, now, asyncio.get_running_loop().create_future())
        entry = Entry(priority, deadline, window, None if reservation is None else reservation._grant)
        with self._changed:
            self._refuse_when_stopped()
            self._queue.push(entry)
            self._staging.stage(window)
            self._changed.notify()
            depth = len(self._queue)
        try:
            self._observer.queue_depth(self._spec.name, depth)
            self._watch_deadline(entry)
            return await window.answer
        finally:
            if window.alarm is not None:
                window.alarm.cancel()
            self._discard(entry)

    # Life

    def start(self) -> None:
        """Start the model's thread. Call it on the event loop that the callers will use."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Refuse new windows, finish those that wait, end the thread and close the runner. Twice is once."""
        with self._changed:
            self._refusal = self._refusal or partial(Draining, "the service is going away, ask another one")
            self._queue.lift_limits()
            self._changed.notify()
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._close()
        await self._finished.wait()

    # The model's thread

    def _serve(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._run(batch)
        except BaseException:
            logger.exception("the thread of model %s died", self._spec.name)
        finally:
            self._close()

    def _close(self) -> None:
        """Fail what still waits, which is nothing unless the thread died or never ran, and close the runner."""
        with self._changed:
            self._refusal = self._refusal or partial(
                InferenceFailed, f"model {self._spec.name} stopped working", retry_after_s=None
            )
            left = (*self._running, *(entry.item for entry in self._queue.clear()))
        self._post(self._fail, left, self._refusal)
        try:
            self._runner.close()
        finally:
            self._post(self._finished.set)

    def _next_batch(self) -> Batch[_Window] | None:
        """Wait for work and take it; None when the batcher was stopped and nothing is left."""
        with self._changed:
            while True:
                taken = self._queue.take(self._clock(), self._max_batch_size)
                for entry in taken.expired:
                    self._staging.unstage(entry.item)
                if taken.expired:
                    self._post(self._fail, [entry.item for entry in taken.expired], self._too_late)
                if taken.batch:
                    self._running = tuple(entry.item for entry in taken.batch)
                    return self._staging.hand_over(self._running)
                if not taken.expired:
                    if self._refusal is not None and not len(self._queue):
                        return None
                    self._changed.wait()

    def _run(self, batch: Batch[_Window]) -> None:
        self._post(self._stage_upcoming)
        started = self._clock()
        output: ModelOutput | None = None
        try:
            output = self._runner.run(
                batch.waveform, batch.lengths, embedding=any(window.embedding for window in batch.windows)
            )
        except BaseException:  # whatever it is, it may cost this batch its answers and not the ones after it
            logger.exception("model %s failed on a batch of %d", self._spec.name, len(batch.windows))
        seconds = self._clock() - started
        with self._changed:
            if output is not None:
                self._queue.record_run(len(batch.windows), seconds)
            self._running = ()
        self._post(self._answer, batch.windows, output, started, seconds)

    def _post(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the event loop, from the model's thread."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            logger.debug("the event loop is closed: nobody waits for %s", function)

    # On the event loop

    def _stage_upcoming(self) -> None:
        """Copy what will probably run next while the runner works."""
        with self._changed:
            for entry in self._queue.upcoming(self._max_batch_size):
                self._staging.stage(entry.item)

    def _answer(self, windows: tuple[_Window, ...], output: ModelOutput | None, started: float, seconds: float) -> None:
        if output is None:
            self._fail(windows, partial(InferenceFailed, "the model failed on this batch"))
            return
        for row, window in enumerate(windows):
            if window.answer.done():
                continue
            if not np.isfinite(output.scores[row]).all():
                window.answer.set_exception(InferenceFailed("the model gave scores that are no numbers", retry_after_s=None))
                continue
            embedding = output.embedding[row] if window.embedding and output.embedding is not None else None
            queued = started - window.submitted_at
            window.answer.set_result(WindowScores(output.logits[row], output.scores[row], embedding, queued, seconds))
        for window in windows:
            self._observer.stage_seconds("queue", started - window.submitted_at)
        self._observer.stage_seconds("infer", seconds)
        self._observer.batch_scored(self._spec.name, len(windows))
        self._observer.queue_depth(self._spec.name, self.depth)

    @staticmethod
    def _fail(windows: Iterable[_Window], make_error: Callable[[], ServiceError]) -> None:
        for window in windows:
            if not window.answer.done():
                window.answer.set_exception(make_error())

    def _watch_deadline(self, entry: Entry[_Window]) -> None:
        """Answer a window whose deadline passes while it waits; one that is running by then is left to finish."""
        if entry.deadline is None:
            return
        remaining = entry.deadline - self._clock()
        if remaining > 0:
            loop = asyncio.get_running_loop()
            entry.item.alarm = loop.call_later(max(remaining, 0.001), self._watch_deadline, entry)
        elif self._discard(entry):
            self._fail([entry.item], self._too_late)

    def _discard(self, entry: Entry[_Window]) -> bool:
        with self._changed:
            was_waiting = self._queue.discard(entry)
            if was_waiting:
                self._staging.unstage(entry.item)
                self._changed.notify()
            depth = len(self._queue)
        if was_waiting:
            self._observer.queue_depth(self._spec.name, depth)
        return was_waiting

    def _release(self, grant: Grant) -> None:
        with self._changed:
            self._queue.release(grant)
            self._changed.notify()

    def _refuse_when_stopped(self) -> None:
        if self._refusal is not None:
            raise self._refusal()

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            "the window could not be scored before its deadline (SONOTAG_REQUEST_TIMEOUT_SECONDS, SONOTAG_MAX_LAG_SECONDS)",
            retry_after_s=self.retry_after_s(),
        )

    def _check_window(self, waveform: Int16Array) -> None:
        least, most = self._spec.min_samples, self._spec.window_samples
        if waveform.ndim != 1 or waveform.dtype != np.int16:
            raise ValueError(f"a window is int16 [n], not {waveform.dtype} {list(waveform.shape)}")
        if not least <= len(waveform) <= most:
            raise ValueError(f"a window of {len(waveform)} samples, the model takes {least} to {most}")
