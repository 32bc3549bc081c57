"""What the handlers share: one object, made by `service.app`, filled by its start."""

from __future__ import annotations

from dataclasses import dataclass

from service.engine import Engine
from service.lifecycle import Lifecycle
from service.metrics import Metrics


@dataclass(slots=True, kw_only=True)
class Services(Engine):
    """Everything a handler may use.

    Attributes:
        lifecycle: Admits requests and streams, and drains.
        metrics: Watches.
        num_streams: Live streams open in this process.
    """

    lifecycle: Lifecycle
    metrics: Metrics
    num_streams: int = 0
