"""What the handlers share: one object, made by `service.app`, filled by its start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from service.access.guard import Guard
from service.capacity import DEFAULT_LIMIT, SavedCapacity, StreamLimit
from service.engine import Engine
from service.inference.batcher import Batcher
from service.inference.catalog import Catalog
from service.keeper.client import KeeperClient
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.spool import Spool
from service.stream_parking import StreamParking


@dataclass(slots=True, kw_only=True)
class Services(Engine):
    """Everything a handler may use.

    Attributes:
        guard: Says who may come in.
        lifecycle: Admits requests and streams, and drains.
        metrics: Watches.
        keeper: Knows what holds for the whole service; see `service.keeper`.
        spool: Gives bodies their room on disk.
        saved: What was measured on this machine; read before the models are loaded.
        stream_limit: How many there may be in the whole service, and who says so; decided when the models are loaded.
        retiring: Catalogs that were replaced and are still used.
        parking: Keeps the streams whose connection broke; None where that is not wanted.
    """

    guard: Guard
    lifecycle: Lifecycle
    metrics: Metrics
    keeper: KeeperClient
    spool: Spool
    saved: SavedCapacity = field(default_factory=SavedCapacity)
    stream_limit: StreamLimit = DEFAULT_LIMIT
    retiring: list[Catalog] = field(default_factory=list)
    parking: StreamParking | None = None


@dataclass(frozen=True, slots=True)
class ServedModels:
    """The batchers of the catalog that serves, looked up anew by each iteration.

    Attributes:
        services: Has the catalogs.
        with_retiring: Whether those count too that were replaced and are still used.
    """

    services: Services
    with_retiring: bool

    def __iter__(self) -> Iterator[Batcher]:
        """Iterate over the batchers."""
        yield from self.services.catalog
        if self.with_retiring:
            for catalog in list(self.services.retiring):
                yield from catalog
