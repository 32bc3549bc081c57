"""Has all workers change their models together: each makes the new ones ready beside the old, then all change, or none does.

A worker that does not say that it changed is not left to serve other models than its siblings: it is killed, and the one in its
place starts with the new models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final, Protocol, TypeVar

from service.errors import Unavailable
from service.keeper.desk import Desk
from service.keeper.topics import (
    DISCARD_MODELS,
    PREPARE_MODELS,
    RELOAD_MODELS,
    SWAP_MODELS,
    Message,
    Nothing,
    Prepared,
    Reloaded,
    Swapped,
    Topic,
)
from service.logs import log_event

logger = logging.getLogger(__name__)

PREPARE_SECONDS: Final = 600.0
"""To read, prove and warm up the new models, while the old ones work: a GPU's take a minute."""
RELOAD_SECONDS: Final = PREPARE_SECONDS + 60
SWAP_SECONDS: Final = 3.0
"""For the change itself, which takes milliseconds. Asked twice, since a supervisor that was stopped finds its time-out over
before it reads the answer that is there."""

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class AskAll(Protocol):
    """`Keeper.ask_all`."""

    async def __call__(
        self, topic: Topic[Q, A], question: Q, *, seconds: float = ..., among: Collection[int] | None = None
    ) -> dict[int, A | Unavailable]:
        """Ask every worker, or these."""
        ...


class Reloads:
    """Reloads one at a time. Its methods belong to the keeper's event loop.

    Args:
        desk: The keeper's, which gets the handler.
        ask_all: Asks every worker.
        replace: Ends a worker, so that another takes its place; None where nobody would start another.
        swap_seconds: How long workers have to say that they changed.
    """

    def __init__(
        self, desk: Desk, ask_all: AskAll, replace: Callable[[int], None] | None, *, swap_seconds: float = SWAP_SECONDS
    ) -> None:
        self._ask_all = ask_all
        self._replace = replace
        self._swap_seconds = swap_seconds
        self._is_busy = False
        desk.add(RELOAD_MODELS, lambda _worker, _question: self.reload())

    async def reload(self) -> Reloaded:
        """Have every worker serve what is in the folders now; the answer has the reason where that cannot be."""
        if self._is_busy:
            return Reloaded(reason="the models are being reloaded already")
        self._is_busy = True
        try:
            reloaded = await self._reload_all()
        finally:
            self._is_busy = False
        if reloaded.reason is None:
            log_event(logger, logging.INFO, "the models are reloaded", workers_replaced=reloaded.num_replaced)
        else:
            log_event(logger, logging.ERROR, "the models are not reloaded", reason=reloaded.reason)
        return reloaded

    async def _reload_all(self) -> Reloaded:
        prepared = await self._ask_all(PREPARE_MODELS, Nothing(), seconds=PREPARE_SECONDS)
        reason = next(filter(None, map(_reason, prepared.values())), None if prepared else "no worker is there")
        if reason is not None:
            await self._ask_all(DISCARD_MODELS, Nothing())
            return Reloaded(reason=reason)
        return await self._swap_all()

    async def _swap_all(self) -> Reloaded:
        answers = await self._ask_all(SWAP_MODELS, Nothing(), seconds=self._swap_seconds)
        silent = [worker for worker, answer in answers.items() if isinstance(answer, Unavailable)]
        if silent:
            answers |= await self._ask_all(SWAP_MODELS, Nothing(), seconds=self._swap_seconds, among=silent)
        unchanged = {worker: reason for worker, answer in answers.items() if (reason := _reason(answer)) is not None}
        for worker, reason in unchanged.items():
            if self._replace is None:
                return Reloaded(reason=reason)
            # One that died meanwhile has a successor already, which reads the folders itself.
            log_event(logger, logging.ERROR, "a worker did not change its models and is replaced", worker=worker, reason=reason)
            self._replace(worker)
        return Reloaded(num_replaced=len(unchanged))


def _reason(answer: Prepared | Swapped | Unavailable) -> str | None:
    return answer.message if isinstance(answer, Unavailable) else answer.reason
