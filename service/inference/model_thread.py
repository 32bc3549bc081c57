"""The threads that a model runs in, and the queue and buffers that they share with those who bring windows.

A thread takes whatever waits as soon as it is free: no timer holds a window back, and no turn of anyone's event loop lies
between two batches, because the next one is copied together while the runner works. One lock, held for microseconds (a
window's copy at most), guards everything; between two runs a thread takes it once, for each time it may have to wait for the
lock, then for the interpreter, while others wait for it. This knows no asyncio: a `Listener` is told what happened.

There is one thread for each lane of the runner: on a CPU as many as `service.inference.tuning` says, and two on a GPU, where
the copies of one run go on beside the other's computation. A thread that dies takes its own batch with it and no more; the
model ends with its last thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from service.inference.halving import run_in_halves
from service.inference.policy import Entry, Grant, Priority, WindowQueue
from service.inference.runner import Int16Array, ModelOutput, Runner
from service.inference.staging import Batch, Staging

logger = logging.getLogger(__name__)


class Stageable(Protocol):
    """A window as the thread sees it. It does not change while it waits."""

    @property
    def waveform(self) -> Int16Array:
        """int16 `[n]`."""
        ...

    @property
    def batch_samples(self) -> int:
        """The length of the batches that it may be in; its entry's `size`."""
        ...

    @property
    def embedding(self) -> bool:
        """Whether the embedding is wanted."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """When a batch ran, on the thread's clock.

    Attributes:
        started: When it began.
        seconds: How long it took.
        was_alone: Whether no other lane ran meanwhile and its lane had nothing to do before it: how long a run takes on an
            idle machine.
        cycle_seconds: From the end of its lane's run before it, where it waited for that: what it takes when there is always
            something to do, waiting for a core included. None where the lane was idle.
    """

    started: float
    seconds: float
    was_alone: bool = False
    cycle_seconds: float | None = None


T = TypeVar("T")
W = TypeVar("W", bound=Stageable)
W_contra = TypeVar("W_contra", bound=Stageable, contravariant=True)


@dataclass(frozen=True, slots=True)
class _Lane(Generic[W]):
    """What a lane runs now.

    Attributes:
        windows: Those that wait for it.
        since: When it was taken, on the thread's clock.
        is_first: Whether no other lane ran then.
        turn: Which of all runs it is.
    """

    windows: tuple[W, ...]
    since: float
    is_first: bool
    turn: int


class Listener(Protocol[W_contra]):
    """Who is told what happened. Every call comes from a thread of the model's and must return at once, without an error."""

    def run_started(self) -> None:
        """The runner is busy now, and windows are copied ahead: it is time for `ModelThread.stage_upcoming`."""

    def run_finished(self, windows: tuple[W_contra, ...], output: ModelOutput | None, run: Run) -> None:
        """A batch was scored, row i for window i; no output means that the model failed on it."""

    def windows_expired(self, windows: tuple[W_contra, ...]) -> None:
        """These were dropped because they could not be done by their deadlines."""

    def thread_finished(self, windows: tuple[W_contra, ...]) -> None:
        """The last thread ends and the runner is closed. These were never answered: the threads died."""


class ModelThread(Generic[W]):
    """Runs one model. Every method may be called from any thread.

    Args:
        runner: The model; closed when the last of its threads ends.
        capacity: Places in the queue.
        max_batch_size: The most windows in a batch.
        clock: Seconds, rising; deadlines are on it.
        listener: Is told what happened.
    """

    def __init__(
        self, runner: Runner, *, capacity: int, max_batch_size: int, clock: Callable[[], float], listener: Listener[W]
    ) -> None:
        self._runner = runner
        self._max_batch_size = max_batch_size
        self._clock = clock
        self._listener = listener
        self._changed = threading.Condition()
        self._queue: WindowQueue[W] = WindowQueue(capacity)
        self._staging: Staging[W] = Staging(runner.spec, max_batch_size)
        self._running: dict[int, _Lane[W]] = {}
        self._last_ended = float("-inf")
        self._lane_ended: dict[int, float] = {}
        self._num_started = 0
        self._calls: dict[int, Callable[[], None]] = {}
        self._num_alive = 0
        self._is_stopping = False
        self._is_prepared = False
        self._is_closed = False

    @property
    def depth(self) -> int:
        """How many windows wait for the runner, but for those that an idle lane is about to take. Asked often, so without the
        lock: it is exact while nothing changes."""
        num_idle = self._num_alive - len(self._running)
        return max(0, len(self._queue) - max(0, num_idle))

    @property
    def is_stopping(self) -> bool:
        """Whether it takes no more windows."""
        return self._is_stopping

    @property
    def seconds_per_window(self) -> float | None:
        """Moving average of what a window costs the runner; None until the first batch."""
        return self._queue.seconds_per_window

    @property
    def running_since(self) -> float | None:
        """When the longest run that is going on now began, by the clock; None where none is."""
        with self._changed:
            return min((lane.since for lane in self._running.values()), default=None)

    def backlog_seconds(self) -> float | None:
        """Return how long the runner needs for what waits and runs now; None as long as no speed was measured."""
        with self._changed:
            each = self._queue.seconds_per_window
            return None if each is None else each * (len(self._queue) + len(self._under_way()))

    def limit(self, priority: Priority) -> int:
        """Return how many places a priority can ever hold."""
        return self._queue.limit(priority)

    def free_places(self, priority: Priority) -> int:
        """Return how many more places a priority could hold now."""
        with self._changed:
            return self._queue.free_places(priority)

    def reserve(self, num_windows: int, priority: Priority) -> Grant | None:
        """Hold places; None when so many are not free."""
        with self._changed:
            return self._queue.reserve(num_windows, priority)

    def release(self, grant: Grant) -> None:
        """Give places back."""
        with self._changed:
            self._queue.release(grant)
            if len(self._queue):  # the places may have been waited for
                self._changed.notify_all()

    def push(self, entry: Entry[W]) -> bool:
        """Let a window wait for the runner; False when it is stopping and takes no more."""
        with self._changed:
            if self._is_stopping:
                return False
            self._queue.push(entry)
            self._staging.stage(entry.item)
            self._changed.notify()
            return True

    def discard(self, entry: Entry[W]) -> bool:
        """Drop a window whose caller left; False when it no longer waits."""
        with self._changed:
            was_waiting = self._queue.discard(entry)
            if was_waiting:
                self._staging.unstage(entry.item)
                self._changed.notify_all()
            return was_waiting

    def promote(self, entry: Entry[W]) -> None:
        """Let a window that still waits go on as a live one."""
        with self._changed:
            if not self._is_stopping:
                self._queue.promote(entry)

    def stage_upcoming(self) -> None:
        """Copy what will probably run next, while the runner works."""
        with self._changed:
            for entry in self._queue.upcoming(self._max_batch_size):
                self._staging.stage(entry.item)

    def prepare(self) -> None:
        """Make the threads, one after another, and let each get ready to run. Takes as long as the runner needs for that.

        Raises:
            Exception: What `Runner.prepare_thread` raised; the runner is closed.
        """
        self._is_prepared = True
        for lane in range(self._runner.spec.num_lanes):
            ready: Future[None] = Future()
            with self._changed:
                self._num_alive += 1
            name = f"model-{self._runner.spec.name}-{lane}"
            threading.Thread(target=self._serve, args=(lane, ready), name=name, daemon=True).start()
            try:
                ready.result()
            except BaseException:
                self.stop()
                raise

    def start(self) -> None:
        """Begin to take windows. Once; `prepare` is part of it where it was not called before."""
        if not self._is_prepared:
            self.prepare()

    def call_in_lanes(self, function: Callable[[], T], num_lanes: int) -> list[T]:
        """Call a function in the threads of the first lanes, in all at once, between their runs; return what it returned.

        Once `prepare` has returned; blocks until all are done.

        Raises:
            Exception: What the function raised.
        """
        results: list[Future[T]] = [Future() for _ in range(num_lanes)]
        with self._changed:
            for lane, result in enumerate(results):
                self._calls[lane] = partial(_resolve, result, function)
            self._changed.notify_all()
        return [result.result() for result in results]

    def stop(self) -> None:
        """Take no more windows, finish those that wait, then end. Returns at once; the listener hears of the end.

        Where there is no thread, nothing that waits is scored.
        """
        with self._changed:
            self._is_stopping = True
            self._queue.lift_limits()
            self._changed.notify_all()
            is_idle = self._num_alive == 0
        if is_idle:
            self._close(())

    def abandon(self) -> tuple[W, ...]:
        """Take no more windows and wait for no run: one hangs. Return those that run and wait, which will not be answered."""
        with self._changed:
            self._is_stopping = True
            left = (*self._under_way(), *(entry.item for entry in self._queue.clear()))
            self._changed.notify_all()
            return left

    def _under_way(self) -> list[W]:
        """Return the windows that run now."""
        return [window for lane in self._running.values() for window in lane.windows]

    def _serve(self, lane: int, ready: Future[None]) -> None:
        try:
            try:
                self._runner.prepare_thread()
            except BaseException as error:  # noqa: BLE001  (whoever waits for it must hear of it)
                ready.set_exception(error)
                return
            ready.set_result(None)
            while (work := self._next_work(lane)) is not None:
                while isinstance(work, Batch):
                    work = self._run(lane, work)
                if work is not None:
                    work()
        except BaseException:  # nobody may be left waiting, whatever it was
            logger.exception("the thread of model %s died", self._runner.spec.name)
        finally:
            self._leave(lane)

    def _leave(self, lane: int) -> None:
        """End a lane's thread: what it had taken is answered, and with the last one all that waits."""
        with self._changed:
            self._num_alive -= 1
            is_last = self._num_alive == 0
            unanswered = self._running.pop(lane).windows if lane in self._running else ()
        if is_last:
            self._close(unanswered)
        elif unanswered:
            self._listener.run_finished(unanswered, None, Run(0.0, 0.0))

    def _close(self, unanswered: tuple[W, ...]) -> None:
        """Close the runner and let go of everyone who waits. Twice is once."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = self._is_stopping = True
            left = (*unanswered, *(entry.item for entry in self._queue.clear()))
        try:
            self._runner.close()
        finally:
            self._listener.thread_finished(left)

    def _next_work(self, lane: int) -> Batch[W] | Callable[[], None] | None:
        """Wait for work and take it, a batch or something to call; None when it was stopped and nothing is left."""
        with self._changed:
            while (work := self._take(lane, self._clock())) is None:
                if self._is_stopping and not len(self._queue):
                    return None
                self._lane_ended.pop(lane, None)
                self._changed.wait()
            return work

    def _take(self, lane: int, now: float) -> Batch[W] | Callable[[], None] | None:
        """Take what a lane is to do now, under the lock; None where nothing waits. A batch counts as begun."""
        if (call := self._calls.pop(lane, None)) is not None:
            return call
        while True:
            taken = self._queue.take(now, self._max_batch_size)
            if taken.expired:
                for entry in taken.expired:
                    self._staging.unstage(entry.item)
                self._listener.windows_expired(tuple(entry.item for entry in taken.expired))
            if taken.batch:
                windows = tuple(entry.item for entry in taken.batch)
                self._num_started += 1
                self._running[lane] = _Lane(windows, now, is_first=not self._running, turn=self._num_started)
                return self._staging.hand_over(windows)
            if not taken.expired:
                return None

    def _run(self, lane: int, batch: Batch[W]) -> Batch[W] | Callable[[], None] | None:
        """Run a batch; return what the lane is to do next, or None where nothing waits yet."""
        if self._staging.copies_ahead:
            self._listener.run_started()
        embedding = any(window.embedding for window in batch.windows)
        output: ModelOutput | None = None
        started = self._clock()
        try:
            output = run_in_halves(self._runner, batch.waveform, batch.lengths, embedding=embedding)
            output = _check_rows(output, len(batch.windows))
        except BaseException:  # it may cost this batch its answers, and not the ones after it
            output = None
            logger.exception("model %s failed on a batch of %d", self._runner.spec.name, len(batch.windows))
        run: Run | None = None
        try:
            with self._changed:
                ended = self._clock()
                run = self._end_run(lane, batch, started, ended, was_scored=output is not None)
                return self._take(lane, ended)
        finally:
            if run is not None:
                self._listener.run_finished(batch.windows, output, run)

    def _end_run(self, lane: int, batch: Batch[W], started: float, ended: float, *, was_scored: bool) -> Run:
        """Note under the lock that a run has ended; return what is known of it."""
        running, before, seconds = self._running[lane], self._lane_ended.get(lane), ended - started
        if was_scored:
            # Beside another run each takes longer; what its windows cost is the time since the other one's end.
            self._queue.record_run(len(batch.windows), seconds, ended - max(started, self._last_ended))
        self._last_ended = self._lane_ended[lane] = ended
        self._staging.take_back(batch)
        run = Run(
            started=started,
            seconds=seconds,
            was_alone=before is None and running.is_first and running.turn == self._num_started,
            cycle_seconds=None if before is None else ended - before,
        )
        del self._running[lane]  # last: whoever is in it is answered also where this dies
        return run


def _resolve(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001  (whoever waits for it must hear of it)
        future.set_exception(error)


def _check_rows(output: ModelOutput, num_windows: int) -> ModelOutput:
    """Return the output if it answers every window; one that got no row would wait for ever.

    Raises:
        ValueError: It has fewer rows.
    """
    num_rows = min(len(output.logits), len(output.scores), len(output.scores if output.embedding is None else output.embedding))
    if num_rows < num_windows:
        raise ValueError(f"the model gave {num_rows} rows for {num_windows} windows")
    return output
