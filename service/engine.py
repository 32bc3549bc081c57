"""What scores sound, wherever it comes from: the models, a pool to decode in, a clock, and whoever watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from service.decoders.interface import Decoders, LocalDecoders
from service.errors import NotReady
from service.inference.catalog import Catalog
from service.observer import Observer
from service.pool import run_in_pool
from service.settings import Settings
from service.tracing import NullTracer, Tracer

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Engine:
    """Everything that a clip or a stream needs on its way through.

    Attributes:
        settings: The settings.
        metrics: Watches.
        executor: Where what blocks is waited for.
        clock: Seconds, rising.
        decoders: Decode files and streams of containers; by default in this process.
        tracer: Follows requests and streams on their way.
    """

    settings: Settings
    metrics: Observer
    executor: ThreadPoolExecutor
    clock: Callable[[], float] = time.monotonic
    decoders: Decoders = field(default_factory=LocalDecoders)
    tracer: Tracer = field(default_factory=NullTracer)
    _catalog: Catalog | None = field(init=False, default=None)

    async def run(self, function: Callable[[], T]) -> T:
        """Run something that blocks in the pool; see `run_in_pool`."""
        return await run_in_pool(self.executor, function)

    @property
    def catalog(self) -> Catalog:
        """The served models.

        Raises:
            NotReady: They are not loaded yet.
        """
        if self._catalog is None:
            raise NotReady("the models are being loaded; ask again soon", retry_after_s=2.0)
        return self._catalog

    @catalog.setter
    def catalog(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def close(self) -> None:
        """Stop the models, after what is queued, and the pool, and send the last traces."""
        if self._catalog is not None:
            await self._catalog.stop()
        self.executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.tracer.close)
