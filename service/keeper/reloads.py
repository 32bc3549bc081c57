"""Has all workers change their models together: each makes the new ones ready beside the old, then all change, or none does."""

from __future__ import annotations

import logging
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
    Topic,
)
from service.logs import log_event

logger = logging.getLogger(__name__)

PREPARE_SECONDS: Final = 600.0
"""To read, prove and warm up the new models, while the old ones work: a GPU's take a minute."""
RELOAD_SECONDS: Final = PREPARE_SECONDS + 60

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class AskAll(Protocol):
    """`Keeper.ask_all`."""

    async def __call__(self, topic: Topic[Q, A], question: Q, *, seconds: float = ...) -> dict[int, A | Unavailable]:
        """Ask every worker."""
        ...


class Reloads:
    """Reloads one at a time. Its methods belong to the keeper's event loop.

    Args:
        desk: The keeper's, which gets the handler.
        ask_all: Asks every worker.
    """

    def __init__(self, desk: Desk, ask_all: AskAll) -> None:
        self._ask_all = ask_all
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
            log_event(logger, logging.INFO, "the models are reloaded")
        else:
            log_event(logger, logging.ERROR, "the models are not reloaded", reason=reloaded.reason)
        return reloaded

    async def _reload_all(self) -> Reloaded:
        prepared = await self._ask_all(PREPARE_MODELS, Nothing(), seconds=PREPARE_SECONDS)
        reason = next(filter(None, map(_reason, prepared.values())), None if prepared else "no worker is there")
        if reason is not None:
            await self._ask_all(DISCARD_MODELS, Nothing())
            return Reloaded(reason=reason)
        # A worker that dies now is replaced by one that reads the folders itself.
        await self._ask_all(SWAP_MODELS, Nothing())
        return Reloaded()


def _reason(answer: Prepared | Unavailable) -> str | None:
    return answer.message if isinstance(answer, Unavailable) else answer.reason
