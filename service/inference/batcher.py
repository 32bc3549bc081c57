"""Many callers, one model: windows wait in a bounded queue and leave it in batches. One `Batcher` for each model.

::

    submit (event loop) ── WindowQueue ── ModelThread ── Runner.run ── one future for each window (event loop)
              └─ copied at once into the next batch's buffer, while the runner works on the other one

Every future is resolved whatever happens: a failed batch fails its own windows, a dead thread fails all that wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import numpy as np

from service.errors import DeadlineExceeded, Draining, InferenceFailed, QueueFull, ServiceError
from service.inference.cost import measure_cost
from service.inference.live_share import LiveShare
from service.inference.model_thread import ModelThread, Run
from service.inference.policy import Entry, Grant, Priority
from service.inference.runner import FloatArray, Int16Array, ModelOutput, ModelSpec, Runner
from service.observer import Observer
from service.tracing import Lap

MIN_RETRY_AFTER_SECONDS = 0.1
RESTART_SECONDS = 5.0
"""A guess: how long it takes until another process serves in place of one whose model stopped."""


@dataclass(frozen=True, slots=True)
class WindowScores:
    """What the model said about one window.

    Attributes:
        logits: float32 `[labels]`.
        scores: float32 `[labels]`, each in [0, 1].
        embedding: float32 `[embedding_size]`, or None when it was not asked for.
        started_at: When the run of its batch began, by the batcher's clock.
        queue_seconds: From `Batcher.submit` to the start of the run.
        infer_seconds: How long the run of its whole batch took.
    """

    logits: FloatArray
    scores: FloatArray
    embedding: FloatArray | None
    started_at: float
    queue_seconds: float
    infer_seconds: float


def model_laps(scores: WindowScores) -> tuple[Lap, Lap]:
    """Return a window's wait and its run."""
    began = scores.started_at
    return Lap("queue", began - scores.queue_seconds, began), Lap("infer", began, began + scores.infer_seconds)


@dataclass(slots=True, eq=False)
class _Window:
    waveform: Int16Array
    batch_samples: int
    embedding: bool
    submitted_at: float
    answer: asyncio.Future[WindowScores] = field(repr=False)
    alarm: asyncio.TimerHandle | None = field(default=None, repr=False)
    promotion: asyncio.TimerHandle | None = field(default=None, repr=False)


class Reservation:
    """Places of the queue that one request or file holds; a context manager. Made by `Batcher.reserve`."""

    def __init__(self, thread: ModelThread[_Window], grant: Grant) -> None:
        self._thread = thread
        self._grant = grant

    @property
    def num_windows(self) -> int:
        """How many windows may wait under it at once."""
        return self._grant.places

    def release(self) -> None:
        """Give the places back. Windows that still wait keep theirs until they leave. Twice is once."""
        self._thread.release(self._grant)

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
        live_share: Which part of what the model can do live streams may ask for; see `LiveShare`.

    Attributes:
        live: What live streams ask for.

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
        live_share: float = 1.0,
    ) -> None:
        largest = runner.spec.batch_sizes[-1]
        size = largest if max_batch_size is None else max_batch_size
        if not 1 <= size <= largest:
            raise ValueError(f"max_batch_size is {size}, it must be 1 to {largest}")
        self._runner = runner
        self._spec = runner.spec
        self._max_queue_windows = max_queue_windows
        self._clock = clock
        self._observer = observer
        # A stream's first windows are shorter, and the runs of a second tell what a window costs.
        whole_window_s = runner.spec.window_samples / runner.spec.sample_rate
        self.live = LiveShare(live_share, whole_window_s + 1, clock)
        self._gains: dict[int, float] = {}
        self._thread: ModelThread[_Window] = ModelThread(
            runner,
            capacity=max_queue_windows,
            max_batch_size=size,
            clock=clock,
            listener=_Messenger(self),
        )
        self._refusal: Callable[[], ServiceError] = partial(
            InferenceFailed, f"model {self._spec.name} stopped working", retry_after_s=RESTART_SECONDS
        )
        self._loop: asyncio.AbstractEventLoop | None = None
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
        return self._thread.depth

    @property
    def seconds_per_window(self) -> float | None:
        """Moving average of what a window costs the runner; None until the first batch."""
        return self._thread.seconds_per_window

    @property
    def running_since(self) -> float | None:
        """When the longest run that is going on now began, by the batcher's clock; None where none is."""
        return self._thread.running_since

    def retry_after_s(self) -> float:
        """Return in how many seconds what waits now will be done, at the speed measured so far; at least 0.1."""
        seconds = self._thread.backlog_seconds()
        return 1.0 if seconds is None else max(MIN_RETRY_AFTER_SECONDS, seconds)

    # Callers

    def max_places(self, priority: Priority) -> int:
        """Return how many places of the queue all reservations of a priority may hold together."""
        return self._thread.limit(priority)

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
        if self._thread.is_stopping:
            raise self._refusal()
        grant = self._thread.reserve(num_windows, priority)
        if grant is not None:
            return Reservation(self._thread, grant)
        limit = self._thread.limit(priority)
        if num_windows > limit:
            error = QueueFull(
                f"the request needs {num_windows} places in the queue and a {priority.value} request can have {limit} at most "
                f"(SONOTAG_MAX_QUEUE_WINDOWS is {self._max_queue_windows})",
                retry_after_s=None,
            )
            error.retryable = False
            raise error
        free = self._thread.free_places(priority)
        raise QueueFull(
            f"the queue is full: {self.depth} windows wait, {free} of its {limit} {priority.value} places are free, "
            f"the request needs {num_windows} (SONOTAG_MAX_QUEUE_WINDOWS is {self._max_queue_windows})",
            retry_after_s=self.retry_after_s(),
        )

    async def submit(
        self,
        waveform: Int16Array,
        *,
        priority: Priority,
        deadline: float | None = None,
        live_at: float | None = None,
        embedding: bool = False,
        reservation: Reservation | None = None,
        window_samples: int | None = None,
    ) -> WindowScores:
        """Score one window. Cancelling the caller drops it.

        Args:
            waveform: int16 `[n]`, from ``spec.min_samples`` to ``spec.window_samples``; it must not change until this returns.
            priority: Its line in the queue.
            deadline: On the batcher's clock, when the result is of no more use; None for never.
            live_at: On the batcher's clock, from when on it is as urgent as a live one; None for never.
            embedding: Whether the embedding is wanted.
            reservation: Whose place it uses; it waits behind the reservation's own windows when all places are in use. Without
                one it waits, first come first served, for a free place of the queue.
            window_samples: The longest window of the sound that this one is of, n or more; None for the model's longest. It
                decides how the window is padded, and with that its scores: a sound's partial windows have the same one.

        Raises:
            ValueError: The waveform is not int16 `[n]`, or n or ``window_samples`` is out of range.
            DeadlineExceeded: It cannot be done in time; it was not scored.
            InferenceFailed: The model failed on its batch.
            Draining: The batcher was stopped before.
        """
        whole = self._spec.window_samples if window_samples is None else window_samples
        self._check_window(waveform, whole)
        now = self._clock()
        if deadline is not None and now >= deadline:
            raise self._too_late()
        length = self._spec.holding(whole)
        window = _Window(waveform, length, embedding, now, asyncio.get_running_loop().create_future())
        entry = Entry(priority, deadline, window, None if reservation is None else reservation._grant, length)
        if not self._thread.push(entry):
            raise self._refusal()
        try:
            self._observer.queue_depth(self._spec.name, self.depth)
            self._watch_deadline(entry)
            if live_at is not None:
                loop = asyncio.get_running_loop()
                window.promotion = loop.call_later(max(0.0, live_at - now), self._thread.promote, entry)
            return await window.answer
        finally:
            for timer in (window.alarm, window.promotion):
                if timer is not None:
                    timer.cancel()
            has_left = window.answer.cancelled() or not window.answer.done()
            if has_left and self._thread.discard(entry):
                self._observer.windows_dropped(self._spec.name, "left", 1)
                self._observer.queue_depth(self._spec.name, self.depth)

    # Life

    def prepare(self) -> None:
        """Make the model's threads and let them get ready. Takes seconds on a GPU: call it in a thread, before `start`.

        Raises:
            Exception: A thread cannot run the model; the runner is closed.
        """
        self._thread.prepare()

    def abandon(self) -> None:
        """End the model's threads and close the runner, from any thread. For a batcher that was prepared and never started."""
        self._thread.stop()

    def measure_speed(self) -> None:
        """Learn what each batch size costs before anybody asks, from runs on silence; after `prepare`, in a thread.

        The first flood would otherwise meet a service that cannot tell how much it can take.
        """
        for size in self._spec.batch_sizes:
            alone, cost = measure_cost(self._runner, size, self._thread.call_in_lanes)
            self._gains[size] = alone / cost if cost > 0 else 1.0
            self.live.record_run(size, cost)

    def start(self) -> None:
        """Start to take windows. Call it on the event loop that the callers will use."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Refuse new windows, finish those that wait, end the thread and close the runner. Twice is once."""
        if not self._thread.is_stopping:
            self._refusal = partial(Draining, "the service is going away, ask another one")
            self._loop = self._loop or asyncio.get_running_loop()
            self._thread.stop()
        await self._finished.wait()

    def give_up(self) -> None:
        """Fail every window that runs or waits, and refuse new ones: the runner hangs, and nothing can end its thread."""
        self._refusal = partial(InferenceFailed, f"model {self._spec.name} does not answer; this worker is being replaced")
        self._finish(self._thread.abandon())

    # On the event loop

    def _post(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the event loop, from a thread of the model's."""
        if self._loop is None:
            return  # it failed while it was prepared, and nobody waits yet
        # A closed loop refuses with RuntimeError, and then there is nobody left who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _begin_run(self) -> None:
        self._thread.stage_upcoming()
        self._observer.queue_depth(self._spec.name, self.depth)

    def _answer(self, windows: tuple[_Window, ...], output: ModelOutput | None, run: Run) -> None:
        if output is None:
            self._fail(windows, partial(InferenceFailed, "the model failed on this batch"))
            return
        for row, window in enumerate(windows):
            if window.answer.done():
                continue
            if not np.isfinite(output.scores[row]).all():
                window.answer.set_exception(_no_numbers())
                continue
            embedding = output.embedding[row] if window.embedding and output.embedding is not None else None
            queued = run.started - window.submitted_at
            window.answer.set_result(
                WindowScores(output.logits[row], output.scores[row], embedding, run.started, queued, run.seconds)
            )
        for window in windows:
            self._observer.stage_seconds("queue", run.started - window.submitted_at)
        self._observer.stage_seconds("infer", run.seconds)
        if windows[0].batch_samples == self._spec.window_samples:
            self._learn_cost(len(windows), run)
        self._observer.batch_scored(self._spec.name, len(windows))
        self._observer.queue_depth(self._spec.name, self.depth)

    def _learn_cost(self, num_windows: int, run: Run) -> None:
        """Tell what a batch of whole windows took of what the model can do.

        Lanes that always have something to do share the machine: each cycle costs its part of the time. A run alone has the
        machine for itself and takes longer than its part, by a factor that was measured at the start. Any other says nothing.
        """
        if run.cycle_seconds is not None:
            self.live.record_run(num_windows, run.cycle_seconds / self._spec.num_lanes)
        elif run.was_alone:
            self.live.record_run(num_windows, run.seconds / self._gains.get(num_windows, 1.0))

    @staticmethod
    def _fail(windows: Iterable[_Window], make_error: Callable[[], ServiceError]) -> None:
        for window in windows:
            if not window.answer.done():
                window.answer.set_exception(make_error())

    def _expire(self, windows: tuple[_Window, ...]) -> None:
        self._observer.windows_dropped(self._spec.name, "late", len(windows))
        self._fail(windows, self._too_late)

    def _finish(self, windows: tuple[_Window, ...]) -> None:
        self._fail(windows, self._refusal)
        self._finished.set()

    def _watch_deadline(self, entry: Entry[_Window]) -> None:
        """Answer a window whose deadline passes while it waits; one that is running by then is left to finish."""
        if entry.deadline is None:
            return
        remaining = entry.deadline - self._clock()
        if remaining > 0:
            loop = asyncio.get_running_loop()
            entry.item.alarm = loop.call_later(max(remaining, 0.001), self._watch_deadline, entry)
        elif self._thread.discard(entry):
            self._expire((entry.item,))

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            "the window could not be scored before its deadline (SONOTAG_REQUEST_TIMEOUT_SECONDS, SONOTAG_MAX_LAG_SECONDS)",
            retry_after_s=self.retry_after_s(),
        )

    def _check_window(self, waveform: Int16Array, window_samples: int) -> None:
        least, most = self._spec.min_samples, self._spec.window_samples
        if waveform.ndim != 1 or waveform.dtype != np.int16:
            raise ValueError(f"a window is int16 [n], not {waveform.dtype} {list(waveform.shape)}")
        if not least <= len(waveform) <= most:
            raise ValueError(f"a window of {len(waveform)} samples, the model takes {least} to {most}")
        if not len(waveform) <= window_samples <= most:
            raise ValueError(f"window_samples is {window_samples}, it must be {len(waveform)} to {most}")


def _no_numbers() -> InferenceFailed:
    error = InferenceFailed("the model gave scores that are no numbers", retry_after_s=None)
    error.retryable = False  # the same sound would get them again
    return error


@dataclass(frozen=True, slots=True)
class _Messenger:
    """The listener that carries what happened in the model's thread over to the batcher's event loop."""

    batcher: Batcher

    def run_started(self) -> None:
        self.batcher._post(self.batcher._begin_run)

    def run_finished(self, windows: tuple[_Window, ...], output: ModelOutput | None, run: Run) -> None:
        self.batcher._post(self.batcher._answer, windows, output, run)

    def windows_expired(self, windows: tuple[_Window, ...]) -> None:
        self.batcher._post(self.batcher._expire, windows)

    def thread_finished(self, windows: tuple[_Window, ...]) -> None:
        self.batcher._post(self.batcher._finish, windows)
