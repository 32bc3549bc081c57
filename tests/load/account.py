"""How deeds end, and who is to blame. For soak and chaos.

The account. Every deed that was begun (*sent*) ends as exactly one of:

answered
    the promised end came: the right answer, the documented error for what is wrong on purpose, or the close with its code
refused
    503 with a retryable error and ``Retry-After``, at the request or at the upgrade; a stream's fatal retryable error, or
    ``going_away`` and its close; a reload that could not be had, with its reason
left
    the client went away on purpose, before the end
broken
    the connection ended without an answer, and the worker that had it in hand was killed meanwhile: nobody can answer for a
    process that is gone. So with a stream that cannot be gone on with because the worker that kept it was killed
lost
    anything else: no end within `PATIENCE_SECONDS`, a connection that ended by itself or with another worker, a wrong or
    undocumented answer

So sent = answered + refused + left + broken + lost, and a service is good if lost is 0.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from websockets.exceptions import WebSocketException

PATIENCE_SECONDS = 120.0
GOOD, REFUSED, LEFT, BROKEN, LOST = "answered", "refused", "left", "broken", "lost"


CUTS = (OSError, httpx.HTTPError, WebSocketException, EOFError)
TIMEOUTS = (TimeoutError, httpx.TimeoutException)


class Wrong(Exception):
    """An answer that nobody promised."""


class Refused(Exception):
    """A refusal as it is promised."""


@dataclass
class Route:
    """Which way a deed went.

    Attributes:
        ports: Its own ends of its connections.
        workers: The numbers of the workers that said they keep something for it, as its resume tokens have them.
    """

    ports: set[int] = field(default_factory=set)
    workers: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Kill:
    """A worker that was killed.

    Attributes:
        at: When, by `time.monotonic`.
        worker: Its number, counted from 1 in the order in which workers were started.
        ports: The clients' ends of the connections that it had.
    """

    at: float
    worker: int
    ports: frozenset[int]

    def hits(self, route: Route) -> bool:
        """Return whether a deed that went this way lost something by it."""
        return self.worker in route.workers or bool(self.ports & route.ports)


Deed = Callable[[Route], Awaitable[str]]


@dataclass
class Account:
    """How the deeds ended.

    Attributes:
        ends: How many by end.
        kinds: How many by kind and end.
        losses: What was lost, in words.
        kills: The workers that were killed.
        sent: How many were begun.
    """

    ends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    sent: int = 0

    def judge(self, began: float, ended: float, route: Route, error: Exception) -> str:
        """Return how a deed without an answer ended."""
        if isinstance(error, Refused):
            return REFUSED
        if not isinstance(error, CUTS) or isinstance(error, TIMEOUTS):
            return LOST
        return BROKEN if any(began <= kill.at <= ended and kill.hits(route) for kill in self.kills) else LOST

    async def enter(self, kind: str, deed: Deed) -> str:
        """Do a deed and enter how it ended."""
        self.sent += 1
        began, route = time.monotonic(), Route()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                end = await deed(route)
        except Exception as error:  # noqa: BLE001 - an answer of another shape than promised can raise anything
            end = self.judge(began, time.monotonic(), route, error)
            if end == LOST:
                self.losses.append(f"{kind} after {time.monotonic() - began:.2f} s: {type(error).__name__}: {error}")
        self.ends[end] += 1
        self.kinds[kind, end] += 1
        return end

    @property
    def is_balanced(self) -> bool:
        """Whether every deed has one end."""
        return self.sent == sum(self.ends.values())

    @property
    def faults(self) -> list[str]:
        """What is not as it should be: something is lost, or does not add up."""
        return self.lines() if self.ends[LOST] or not self.is_balanced else []

    def missing(self, kinds: list[str]) -> list[str]:
        """Return the kinds of which none was answered, or left where that is its end: of these nothing was learnt."""
        return [kind for kind in kinds if not self.kinds[kind, GOOD] + self.kinds[kind, LEFT]]

    def lines(self) -> list[str]:
        """Return the account in words."""
        ends = ", ".join(f"{name} {self.ends[name]}" for name in (GOOD, REFUSED, LEFT, BROKEN, LOST))
        return [f"sent {self.sent}: {ends}; {len(self.kills)} workers killed", *self.losses[:20]]

    def table(self) -> list[str]:
        """Return the kinds and their ends in words."""
        return [f"{kind}: {end} {count}" for (kind, end), count in sorted(self.kinds.items())]
