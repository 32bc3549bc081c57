"""Has the windows of one stream scored, each in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from service.engine import Engine
from service.errors import InferenceFailed, ServiceError
from service.inference.batcher import WindowScores, model_laps
from service.inference.policy import Priority
from service.inference.runner import FloatArray
from service.streaming.actions import Infer
from service.tracing import Lap, current_trace

logger = logging.getLogger(__name__)

EARLY_SECONDS: Final = 1.0
"""A window that was sent further ahead of real time goes with the bulk until it is due: who sends a file as fast as it is taken
does not hold up those who speak now. Pieces of a second, and a sender's jitter, stay below it."""


class WindowScorer:
    """Asks the model for a stream's windows. It is made where the stream's trace is the current one; its methods belong to the
    event loop.

    Answers come in any order, one call for each window that is not cancelled.

    Args:
        engine: The models, a clock and who watches; its catalog is loaded.
        on_scores: Called with a window's ticket, its scores, float32 `[labels]`, and the clock time.
        on_failure: Called with the ticket of a window that is too late or that the model failed on, why, and the clock time.
    """

    def __init__(
        self,
        engine: Engine,
        on_scores: Callable[[int, FloatArray, float], None],
        on_failure: Callable[[int, ServiceError, float], None],
    ) -> None:
        self._catalog = engine.catalog
        self._clock = engine.clock
        self._metrics = engine.metrics
        self._on_scores = on_scores
        self._on_failure = on_failure
        self._trace = current_trace()
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, window: Infer, model: str, decoded: Lap | None) -> None:
        """Have a window scored.

        Args:
            window: What is asked for.
            model: The model's name.
            decoded: The reading of the piece that completed it, for the trace.
        """
        task = asyncio.create_task(self._answer(window, model, decoded))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> list[asyncio.Task[None]]:
        """Give up what is not answered; return the tasks, which end soon."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    async def _answer(self, window: Infer, model: str, decoded: Lap | None) -> None:
        try:
            result = await self._score(window, model)
        except ServiceError as error:
            self._on_failure(window.ticket, error, self._clock())
        except Exception:
            logger.exception("a window could not be scored")
            self._on_failure(window.ticket, InferenceFailed("a window could not be scored"), self._clock())
        else:
            started = self._clock()
            self._on_scores(window.ticket, result.scores, started)
            ended = self._clock()
            self._metrics.stage_seconds("postprocess", ended - started)
            if self._trace.is_recording:
                laps = [*model_laps(result), Lap("postprocess", started, ended)]
                self._trace.window_done([decoded, *laps] if decoded else laps)

    async def _score(self, window: Infer, model: str) -> WindowScores:
        is_early = window.due > self._clock() + EARLY_SECONDS
        return await self._catalog.get(model).submit(
            window.waveform,
            priority=Priority.BULK if is_early else Priority.LIVE,
            deadline=window.deadline,
            live_at=window.due if is_early else None,
            window_samples=window.window_samples,
        )
