"""The clip pipeline: decoded samples of a file in, scored windows in order out, one answer at the end.

::

    blocks (pool thread) ─ SlidingWindower ─ Batcher.submit (a few at a time) ─ ClipTags.add ─ ClipTags.result

The windower, the model and the event detector are those of a stream, so that a file and its stream give the same numbers.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor
from dataclasses import dataclass, field

from service.audio.windowing import SlidingWindower, Span
from service.errors import ClipTooLong, ClipTooShort
from service.inference.batcher import Batcher, Reservation, WindowScores
from service.inference.policy import Priority
from service.inference.runner import FloatArray, Int16Array, ModelSpec
from service.options import Grid
from service.pool import run_in_pool
from service.postprocess.events import EventChange, EventDetector
from service.postprocess.hysteresis import Event, Thresholds
from service.postprocess.scores import Aggregate, Aggregation, Function, Tag, TagSelector, apply_function
from service.tracing import NULL_TRACE, Lap, Trace

FIRST_SECONDS = 30.0
"""What is read of a clip at first. One that ends with it is somebody waiting; what is longer is bulk."""
MAX_PLACES = 8
"""Places of the queue that one file holds: enough to fill batches, few enough that an hour-long file fits any limit."""


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What is wanted of a clip, checked against the model.

    Attributes:
        spec: The model.
        grid: Which windows are scored.
        selector: Which tags are wanted.
        aggregation: How windows become one answer.
        thresholds: What counts as an event, or None when no events are wanted.
        embedding: Whether the embedding is wanted.
        function: What to apply to the logits in place of the model's own activation, or None.
    """

    spec: ModelSpec
    grid: Grid
    selector: TagSelector
    aggregation: Aggregation = "mean"
    thresholds: Thresholds | None = None
    embedding: bool = False
    function: Function | None = None


@dataclass(frozen=True, slots=True)
class ClipResult:
    """The answer for a whole clip.

    Attributes:
        num_samples: Its length at the model's rate.
        tags: Best first.
        events: By onset; empty when none were wanted.
        embedding: float32 `[embedding_size]`, the mean over the windows, each weighed by its length; or None.
    """

    num_samples: int
    tags: tuple[Tag, ...]
    events: tuple[Event, ...]
    embedding: FloatArray | None


@dataclass(slots=True)
class Timing:
    """Seconds spent on one clip: decoding and resampling, waiting for the model, in the model (a window's share of its
    batch is not taken apart)."""

    decode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """One window's result.

    Attributes:
        span: Its samples.
        scores: What the model said.
    """

    span: Span
    scores: WindowScores


class ClipTags:
    """Collects a clip's windows into its answer. Pure: no clock, no await.

    Args:
        plan: What is wanted.
        per_window: Whether the tags of each window are wanted, too.
    """

    def __init__(self, plan: ClipPlan, *, per_window: bool) -> None:
        self._plan = plan
        self._per_window = per_window
        self._scores = Aggregate(plan.aggregation)
        self._embedding = Aggregate("mean")
        self._detector = EventDetector(plan.grid.window_samples, plan.thresholds) if plan.thresholds else None
        self._events: list[Event] = []

    def add(self, window: ScoredWindow) -> tuple[Tag, ...]:
        """Take the next window; return its own tags, none where they are not wanted."""
        plan, span = self._plan, window.span
        scores = window.scores.scores
        if plan.function is not None:
            scores = apply_function(window.scores.logits, plan.function)
        self._scores.add(scores, len(span))
        if window.scores.embedding is not None:
            self._embedding.add(window.scores.embedding, len(span))
        if self._detector:
            self._keep(self._detector.add(span.start, span.end, window.scores.scores))
        return plan.selector.select(scores) if self._per_window else ()

    def result(self, num_samples: int) -> ClipResult:
        """Return the answer; called once, after the last window."""
        if self._detector:
            self._keep(self._detector.finish())
        return ClipResult(
            num_samples=num_samples,
            tags=self._plan.selector.select(self._scores.result()),
            events=tuple(sorted(self._events, key=lambda event: (event.onset, event.label_id))),
            embedding=self._embedding.result() if self._plan.embedding else None,
        )

    def _keep(self, changes: list[EventChange]) -> None:
        self._events += [change.event for change in changes if change.phase == "offset" and not change.retracted]


@dataclass(slots=True)
class ClipReader:
    """Cuts the samples of a clip into windows. `read` runs in a pool thread while `take` may run on the event loop.

    Attributes:
        blocks: int16 `[n]` at the model's rate, in order; reading them may block.
        plan: What is wanted.
        max_seconds: Longer clips are refused.
        clock: Seconds, rising.
        trace: Is told of every reading.
        is_finished: Whether all sound is in.
        num_samples: How much sound is in.
        seconds: Spent in `read`.
    """

    blocks: Iterator[Int16Array]
    plan: ClipPlan
    max_seconds: float
    clock: Callable[[], float] = time.monotonic
    trace: Trace = NULL_TRACE
    is_finished: bool = False
    num_samples: int = 0
    seconds: float = 0.0
    _windower: SlidingWindower = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        grid = self.plan.grid
        self._windower = SlidingWindower(grid.window_samples, grid.hop_samples, self.plan.spec.min_samples)

    def read(self, seconds: float) -> list[Span]:
        """Read until more than this much more sound is in and a window is complete, or all sound; return the new windows.

        Raises:
            ServiceError: The sound cannot be decoded, is too long or too short.
        """
        started, spec = self.clock(), self.plan.spec
        spans: list[Span] = []
        until = self.num_samples + seconds * spec.sample_rate
        while not self.is_finished and (self.num_samples <= until or not spans):
            block = next(self.blocks, None)
            with self._lock:
                if block is None:
                    self.is_finished = True
                    spans += [tail] if (tail := self._windower.flush()) else []
                else:
                    spans += self._windower.push(block)
                    self.num_samples = self._windower.received_samples
            if self.num_samples > self.max_seconds * spec.sample_rate:
                raise ClipTooLong(f"the clip is longer than {self.max_seconds:g} s (SONOTAG_MAX_CLIP_SECONDS)")
        ended = self.clock()
        self.seconds += ended - started
        self.trace.stage_done(Lap("decode", started, ended))
        if self.is_finished and self.num_samples < spec.min_samples:
            raise ClipTooShort(
                f"the clip has {self.num_samples} samples at {spec.sample_rate} Hz; "
                f"model {spec.name} needs at least {spec.min_samples}"
            )
        return spans

    def take(self, span: Span) -> Int16Array:
        """Return a window's samples, int16 `[len(span)]`; windows are taken in their order, each once."""
        with self._lock:
            waveform = self._windower.read(span)
            self._windower.release(span.start)
        return waveform


def _is_followed(reader: ClipReader, waiting: Sized, running: Sized) -> bool:
    """Return whether it is known what follows the first running window: another one, or nothing. Whoever is given a window can
    then tell whether it is the last one."""
    return reader.is_finished or len(waiting) > 0 or len(running) > 1


async def score_clip(
    reader: ClipReader,
    spans: Iterable[Span],
    batcher: Batcher,
    executor: Executor,
    *,
    timeout_seconds: float,
    timing: Timing,
    reservation: Reservation | None = None,
) -> AsyncGenerator[ScoredWindow, None]:
    """Score a clip's windows, in order, each when it is known what follows it. Closing the iterator drops what still waits.

    Admission is decided before the first window is scored: a clip holds a few places of the queue until it is done.

    Args:
        reader: The clip, of which `FIRST_SECONDS` are read.
        spans: The windows in these.
        batcher: The model.
        executor: Where decoding runs.
        timeout_seconds: How long one window may wait for the model.
        timing: Is filled.
        reservation: Places that were reserved before, as bulk; else a short clip goes before bulk and a long one is bulk.

    Raises:
        ServiceError: The sound cannot be decoded, is too long or too short; the queue is full; the model failed or is
            too slow.
    """
    waiting = deque(spans)
    priority = Priority.CLIP if reservation is None and reader.is_finished else Priority.BULK
    own = None
    if reservation is None:
        places = min(MAX_PLACES, len(waiting)) if reader.is_finished else MAX_PLACES
        own = reservation = batcher.reserve(min(places, batcher.max_places(priority)), priority)
    running: deque[tuple[Span, asyncio.Task[WindowScores]]] = deque()
    reading: asyncio.Task[list[Span]] | None = None
    failure: BaseException | None = None
    try:
        while waiting or running or reading or not (reader.is_finished or failure):
            while waiting and len(running) < reservation.num_windows:
                span = waiting.popleft()
                job = batcher.submit(
                    reader.take(span),
                    priority=priority,
                    deadline=reader.clock() + timeout_seconds,
                    embedding=reader.plan.embedding,
                    reservation=reservation,
                    window_samples=reader.plan.grid.window_samples,
                )
                running.append((span, asyncio.ensure_future(job)))
            if reading is None and not waiting and not (reader.is_finished or failure):
                reading = asyncio.create_task(run_in_pool(executor, lambda: reader.read(0.0)))
            head = running[0][1] if running else None
            if head is not None and head.done() and not (failure or _is_followed(reader, waiting, running)):
                head = None
            if reading is None and head is not None:  # the usual end, and all there is of a short clip
                await head
            else:
                await asyncio.wait([future for future in (reading, head) if future], return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading.done():
                failure = reading.exception()  # what came before it is scored and given first
                waiting += [] if failure else reading.result()
                reading = None
            if running and running[0][1].done() and (failure or _is_followed(reader, waiting, running)):
                span, task = running.popleft()
                scores = task.result()
                timing.queue += scores.queue_seconds
                timing.infer += scores.infer_seconds
                yield ScoredWindow(span, scores)
        if failure is not None:
            raise failure
    finally:
        timing.decode = reader.seconds
        if own is not None:
            own.release()
        # A reading that is cancelled leaves its thread, which still holds the file, only when that has ended.
        left = [task for _, task in running] + ([reading] if reading else [])
        for future in left:
            future.cancel()
        await asyncio.gather(*left, return_exceptions=True)
