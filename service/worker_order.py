"""What the supervisor tells a worker, and what the worker answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from service.settings import Settings

READY: Final = b"ready\n"
"""The line on a worker's standard output that says that it serves."""

ReplacementCause = Literal["died", "hung", "stalled", "reload"]
"""Why a worker takes the place of another: that one died, its model hung, its event loop stood still, or it did not say in time
that it had changed its models."""


@dataclass(frozen=True, slots=True)
class Order:
    """The first thing on a worker's standard input. It travels pickled, because JSON would hide secrets.

    Attributes:
        settings: The whole service's settings.
        fds: The listening sockets, inherited.
        keeper_fd: The way to the supervisor's keeper, inherited.
        listens_when_ready: Leave connections to the other workers until the models are warm.
        replaces: Why there was need of another worker; None for one of the first.
    """

    settings: Settings
    fds: tuple[int, ...]
    keeper_fd: int
    listens_when_ready: bool
    replaces: ReplacementCause | None = None
