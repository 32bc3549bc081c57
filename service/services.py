"""What the handlers share: one object, made by `service.app`, filled by its start."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from service.errors import NotReady
from service.inference.catalog import Catalog
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.settings import Settings

T = TypeVar("T")


@dataclass(slots=True)
class Services:
    """Everything a handler may use.

    Attributes:
        settings: The settings.
        lifecycle: Admits requests and streams, and drains.
        metrics: Watches.
        executor: Where sound is decoded.
        clock: Seconds, rising.
        num_streams: Live streams open in this process.
    """

    settings: Settings
    lifecycle: Lifecycle
    metrics: Metrics
    executor: ThreadPoolExecutor
    clock: Callable[[], float] = time.monotonic
    num_streams: int = 0
    _catalog: Catalog | None = field(default=None)

    async def run(self, function: Callable[[], T]) -> T:
        """Run something that blocks in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, function)

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
        """Stop the models, after what is queued, and the pool."""
        if self._catalog is not None:
            await self._catalog.stop()
        self.executor.shutdown(wait=False, cancel_futures=True)
