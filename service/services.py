"""What the handlers share: one object, made by `service.app`, filled by its start."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from service.errors import NotReady
from service.inference.catalog import Catalog
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.settings import Settings


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
