"""What scores the files of `sonotag classify`: a model in this process, or a service somewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from service.answers import ClassifyQuery, ClipAnswer
from service.client import AsyncClient
from service.clips import answer_clip, make_plan, open_clip
from service.commands.local_engine import open_engine
from service.commands.sound_files import SoundFile
from service.engine import Engine
from service.inference.batcher import Batcher, Reservation
from service.inference.policy import Priority
from service.settings import Settings
from service.tagger import MAX_PLACES, ClipPlan

Report = Callable[[float], None]


class ClipWork(Protocol):
    """What every file of one command is scored with. Several files may be under way at once."""

    async def score(self, file: SoundFile, report: Report) -> ClipAnswer:
        """Score one file.

        Args:
            file: The file.
            report: Is told how much is done, 0 to 1.

        Raises:
            ServiceError: It cannot be scored.
            OSError: It cannot be read.
        """
        ...


@asynccontextmanager
async def open_local_work(query: ClassifyQuery, settings: Settings) -> AsyncIterator[ClipWork]:
    """Load the model.

    Raises:
        InvalidParameter: The query asks for what the model does not have.
        NotFound: There is no such model.
        StartError: It cannot be loaded.
    """
    async with open_engine(settings, query.model) as engine:
        batcher = engine.catalog.get(query.model)
        plan = make_plan(batcher.spec, query, settings.events)
        with batcher.reserve(min(MAX_PLACES, batcher.max_places(Priority.BULK)), Priority.BULK) as reservation:
            yield _LocalWork(engine, batcher, reservation, plan, query)


class _LocalWork:
    def __init__(
        self, engine: Engine, batcher: Batcher, reservation: Reservation, plan: ClipPlan, query: ClassifyQuery
    ) -> None:
        self._engine = engine
        self._batcher = batcher
        self._reservation = reservation
        self._plan = plan
        self._query = query

    async def score(self, file: SoundFile, report: Report) -> ClipAnswer:
        engine, query = self._engine, self._query
        with await engine.run(file.open) as opened:
            clip_context = open_clip(engine, self._batcher, opened, self._plan, query.channel, self._reservation)
            async with clip_context as clip:
                return await answer_clip(engine, clip, timeline=query.timeline, on_progress=report)


class RemoteWork:
    """A `ClipWork` that asks a service.

    Args:
        client: Of the service.
        query: What is asked.
        is_watched: Whether somebody sees how much is done: a whole answer costs the service less than its lines.
    """

    def __init__(self, client: AsyncClient, query: ClassifyQuery, *, is_watched: bool) -> None:
        self._client = client
        self._query = query
        self._is_watched = is_watched

    async def score(self, file: SoundFile, report: Report) -> ClipAnswer:
        """See `ClipWork`."""
        with await asyncio.to_thread(file.open) as opened:
            return await self._client.classify_query(opened, self._query, on_progress=report if self._is_watched else None)
