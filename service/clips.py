"""Clips through the pipeline: from a file and a query to the answer."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import IO, TypeVar

from service.answers import ClassifyQuery, ClipAnswer, EventItem, WindowItem, check_timeline
from service.audio.plain_wav import open_plain_wav
from service.audio.windowing import Span
from service.decoders.interface import ClipSound
from service.engine import Engine
from service.errors import ClipTooLong, NoRoom
from service.inference.batcher import Batcher, Reservation, model_laps
from service.inference.runner import ModelSpec
from service.meter import UNMETERED, Meter
from service.options import Grid, make_selector, make_thresholds, parse_events, resolve_grid
from service.postprocess.event_config import EventConfig
from service.postprocess.scores import SCORE_DIGITS, Function, Tag
from service.streaming.messages import TagItem
from service.tagger import FIRST_SECONDS, ClipPlan, ClipReader, ClipResult, ClipTags, ScoredWindow, Timing, score_clip
from service.tracing import Lap, current_trace

T = TypeVar("T")

LEAST_SECONDS = 0.1
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC}
_RETRY_SECONDS = 10.0
LAST_ESTIMATE = 0.99
"""A header may state too short a sound: until all is read nobody knows that it is done."""


def make_plan(spec: ModelSpec, query: ClassifyQuery, defaults: EventConfig, function: Function | None = None) -> ClipPlan:
    """Check a query against a model.

    Raises:
        InvalidParameter: A value is out of the model's range, or a label unknown.
    """
    # Logits as they are have no threshold: they fall below 0.
    threshold = query.threshold if function is None else -math.inf
    selector = make_selector(spec, query.top_k, threshold, query.labels, query.exclude)
    events = None if query.events is None else parse_events(query.events, defaults)
    grid = resolve_grid(spec, query.window, query.hop)
    if query.hop is None and not query.timeline and events is None:
        grid = Grid(grid.window_samples, grid.window_samples)
    return ClipPlan(
        spec=spec,
        grid=grid,
        selector=selector,
        aggregation=query.aggregate,
        thresholds=make_thresholds(spec, events, selector) if events else None,
        embedding=query.embedding,
        function=function,
    )


@dataclass(slots=True)
class Clip:
    """One clip on its way through the pipeline.

    Attributes:
        plan: What is wanted.
        windows: Its results, in order.
        timing: Filled while they come.
        reader: Knows how much was read.
    """

    plan: ClipPlan
    windows: AsyncGenerator[ScoredWindow, None]
    timing: Timing
    reader: ClipReader
    sound: ClipSound
    num_bytes: int
    _progress: float = 0.0

    def progress(self, position: int) -> float:
        """Return how much of the clip is done at a position in samples, 0 to 1. It never falls; the last window ends at 1."""
        self._progress = max(self._progress, self._estimate(position))
        return self._progress

    def _estimate(self, position: int) -> float:
        if self.reader.is_finished:
            return position / self.reader.num_samples
        if self.sound.num_frames:
            return min(LAST_ESTIMATE, position / (self.sound.num_frames / self.sound.sample_rate * self.plan.spec.sample_rate))
        read = min(LAST_ESTIMATE, self.sound.num_read_bytes / max(1, self.num_bytes))
        return read * min(1.0, position / max(1, self.reader.num_samples))


@asynccontextmanager
async def open_clip(
    engine: Engine,
    batcher: Batcher,
    file: IO[bytes],
    plan: ClipPlan,
    channel: int | None,
    reservation: Reservation | None = None,
    meter: Meter = UNMETERED,
) -> AsyncIterator[Clip]:
    """Open a clip and begin to score it.

    Raises:
        ServiceError: See `score_clip` and `Decoders`.
        QuotaExceeded: The caller may not send so much sound now, by what the clip itself says of its length.
        ClipTooLong: The caller may never send so much.
    """
    settings, metrics, decoders, rate = engine.settings, engine.metrics, engine.decoders, plan.spec.sample_rate
    num_bytes = file.seek(0, 2)
    file.seek(0)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(decoders.turn(is_patient=reservation is not None))
        trace, observe = current_trace(), metrics.stage_seconds
        plain = open_plain_wav(file, channel=channel, target_rate=rate, observe=observe, clock=engine.clock)

        def open_sound() -> ClipSound:
            sound = plain or decoders.open_file(file, channel=channel, target_rate=rate, observe=observe)
            stack.callback(sound.close)
            _check_length(sound, settings.max_clip_seconds)
            return sound

        def begin(sound: ClipSound) -> tuple[ClipReader, list[Span]]:
            reader = ClipReader(sound.samples(), plan, settings.max_clip_seconds, engine.clock, trace)
            stack.callback(lambda: metrics.audio_received("clip", reader.num_samples / rate))
            return reader, reader.read(FIRST_SECONDS)

        if plain is None and meter is UNMETERED:
            # In one go: every change of threads costs, and of a short clip nothing is left to wait for then.
            sound, (reader, spans) = await _in_pool(engine, lambda: (sound := open_sound(), begin(sound)))
        else:
            sound = open_sound() if plain is not None else await _in_pool(engine, open_sound)
            # What does not say how long it is needs something to be left at least.
            await meter.require(sound.num_frames / sound.sample_rate if sound.num_frames else LEAST_SECONDS)
            is_ready = plain is not None and plain.is_ready
            reader, spans = begin(sound) if is_ready else await _in_pool(engine, lambda: begin(sound))
        timing = Timing()
        windows = score_clip(
            reader,
            spans,
            batcher,
            engine.executor,
            timeout_seconds=settings.request_timeout_seconds,
            timing=timing,
            reservation=reservation,
        )
        if meter is not UNMETERED:
            windows = _metered(windows, reader, meter)
        clip = Clip(plan, windows, timing, reader, sound, num_bytes)
        await stack.enter_async_context(aclosing(windows))
        yield clip


async def _metered(
    windows: AsyncGenerator[ScoredWindow, None], reader: ClipReader, meter: Meter
) -> AsyncGenerator[ScoredWindow, None]:
    """Yield a clip's windows as long as what was read for them is within what the caller may send."""
    rate = reader.plan.spec.sample_rate
    num_taken = 0
    async with aclosing(windows):
        async for window in windows:
            num_read = reader.num_samples
            meter.check_whole(num_read / rate)
            await meter.take((num_read - num_taken) / rate)
            num_taken = num_read
            yield window


def _check_length(sound: ClipSound, max_seconds: float) -> None:
    if sound.num_frames and sound.num_frames > max_seconds * sound.sample_rate:
        raise ClipTooLong(
            f"the clip is {sound.num_frames / sound.sample_rate:.1f} s long, "
            f"the limit is {max_seconds:g} s (SONOTAG_MAX_CLIP_SECONDS)"
        )


async def _in_pool(engine: Engine, open_file: Callable[[], T]) -> T:
    """Open a file in the pool.

    Raises:
        ServiceError: See `Decoders.open_file`.
        NoRoom: There is no descriptor or memory left to hand it over.
    """
    try:
        return await engine.run(open_file)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise NoRoom(
            f"the clip cannot be given to a decoder now: {os.strerror(error.errno)}", retry_after_s=_RETRY_SECONDS
        ) from error


async def answer_clip(
    engine: Engine, clip: Clip, *, timeline: bool, on_progress: Callable[[float], None] | None = None
) -> ClipAnswer:
    """Score a whole clip and return its answer.

    Args:
        engine: Clock and metrics.
        clip: The clip.
        timeline: Whether the windows are wanted too.
        on_progress: Is told after each window how much is done, 0 to 1.

    Raises:
        ServiceError: See `score_clip`.
        InvalidParameter: The timeline is too long for one answer.
    """
    tags = ClipTags(clip.plan, per_window=timeline)
    windows: list[WindowItem] = []
    num_tags = 0
    async for window in clip.windows:
        items = add_window(engine, tags, window)
        if on_progress is not None:
            on_progress(clip.progress(window.span.end))
        if timeline:
            num_tags += len(items)
            check_timeline(num_tags)
            windows.append(window_item(clip.plan.spec, window, items))
    return make_answer(clip.plan, tags.result(clip.reader.num_samples), windows if timeline else None)


def add_window(engine: Engine, tags: ClipTags, window: ScoredWindow) -> tuple[Tag, ...]:
    """Let a clip's tags take a window, and say how long that took; return the window's own tags where they are wanted."""
    started = engine.clock()
    items = tags.add(window)
    ended = engine.clock()
    engine.metrics.stage_seconds("postprocess", ended - started)
    if (trace := current_trace()).is_recording:
        trace.window_done([*model_laps(window.scores), Lap("postprocess", started, ended)])
    return items


def tag_items(tags: tuple[Tag, ...]) -> tuple[TagItem, ...]:
    """Return the wire form of tags."""
    return tuple(TagItem.model_validate(tag) for tag in tags)


def window_item(spec: ModelSpec, window: ScoredWindow, tags: tuple[Tag, ...]) -> WindowItem:
    """Return the wire form of a window and its tags."""
    rate = spec.sample_rate
    return WindowItem(start=window.span.start / rate, end=window.span.end / rate, tags=tag_items(tags))


def make_answer(plan: ClipPlan, result: ClipResult, windows: list[WindowItem] | None = None) -> ClipAnswer:
    """Return the wire form of a clip's result."""
    spec = plan.spec
    events = tuple(
        EventItem(
            label=spec.labels[event.label_id],
            onset=event.onset / spec.sample_rate,
            offset=event.offset / spec.sample_rate,
            peak=round(event.peak, SCORE_DIGITS),
        )
        for event in result.events
    )
    return ClipAnswer(
        model=spec.name,
        duration=result.num_samples / spec.sample_rate,
        tags=tag_items(result.tags),
        windows=windows,
        events=events if plan.thresholds else None,
        embedding=None if result.embedding is None else [round(float(value), 6) for value in result.embedding],
    )
