"""What the handlers share: one object, made by `service.app`, filled by its start."""

from __future__ import annotations

from dataclasses import dataclass

from service.access.guard import Guard
from service.capacity import DEFAULT_LIMIT, StreamLimit
from service.engine import Engine
from service.keeper.client import KeeperClient
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.stream_parking import StreamParking


@dataclass(slots=True, kw_only=True)
class Services(Engine):
    """Everything a handler may use.

    Attributes:
        guard: Says who may come in.
        lifecycle: Admits requests and streams, and drains.
        metrics: Watches.
        keeper: Knows what holds for the whole service; see `service.keeper`.
        stream_limit: How many there may be in the whole service, and who says so; decided when the models are loaded.
        parking: Keeps the streams whose connection broke; None where that is not wanted.
    """

    guard: Guard
    lifecycle: Lifecycle
    metrics: Metrics
    keeper: KeeperClient
    stream_limit: StreamLimit = DEFAULT_LIMIT
    parking: StreamParking | None = None
