"""A worker's end: asks the keeper, wherever it is, and answers what the keeper asks this worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Protocol, TypeVar

from service.errors import StartError, Unavailable
from service.keeper.desk import Desk
from service.keeper.keeper import Keeper
from service.keeper.link import ASK_SECONDS, Link
from service.keeper.topics import HELLO, PING, VERSION, Hello, Message, Nothing, Topic

logger = logging.getLogger(__name__)

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class KeeperClient(Protocol):
    """What handlers have of the keeper. Every method belongs to the event loop that called `start`."""

    @property
    def desk(self) -> Desk:
        """Answers what the keeper asks this worker; filled before `start`."""
        ...

    @property
    def worker(self) -> int:
        """This worker's number; 0 until `start`, and where there is one process."""
        ...

    async def start(self) -> None:
        """Open the way to the keeper. Once.

        Raises:
            StartError: The keeper is another version's.
        """
        ...

    async def close(self) -> None:
        """Close it. Twice is once."""
        ...

    async def ask(self, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS) -> A:
        """Ask the keeper.

        Raises:
            Unavailable: The supervisor is gone or does not answer in time.
        """
        ...

    def tell(self, topic: Topic[Q, A], question: Q) -> None:
        """Tell the keeper, wanting no answer; nothing happens where it is gone."""
        ...


class LocalKeeper:
    """A `KeeperClient` for a service of one process.

    Args:
        keeper: In the same process; this is its worker 0.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._tasks: set[asyncio.Task[Message]] = set()
        self.desk = Desk()
        self.worker = 0

    async def start(self) -> None:
        """See `KeeperClient`."""
        self._keeper.join(0, _LocalPort(self.desk))

    async def close(self) -> None:
        """See `KeeperClient`."""
        self._keeper.leave(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(self, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS) -> A:
        """See `KeeperClient`."""
        return await _ask_desk(self._keeper.desk, topic, question, seconds)

    def tell(self, topic: Topic[Q, A], question: Q) -> None:
        """See `KeeperClient`."""
        try:
            reply = self._keeper.desk.answer(topic.name, 0, question)
        except Exception:
            logger.exception("a question could not be answered: %s", topic.name)
            return
        if not isinstance(reply, Message):
            task = asyncio.ensure_future(reply)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class LinkedKeeper:
    """A `KeeperClient` for one of several processes.

    Args:
        sock: This worker's end of the supervisor's socketpair; closed with it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.desk = Desk()
        self.desk.add(PING, lambda _asker, _question: Nothing())
        self.worker = 0
        self._link = Link(sock, self.desk, 0)

    async def start(self) -> None:
        """See `KeeperClient`."""
        await self._link.start()
        with contextlib.suppress(Unavailable):  # a supervisor that is gone already ends this worker in its own way
            welcome = await self._link.ask(HELLO, Hello(version=VERSION))
            self.worker = welcome.worker
            if welcome.version != VERSION:
                raise StartError(
                    f"the supervisor speaks version {welcome.version} and this worker {VERSION}: Sonotag was replaced while it "
                    "ran; start it again"
                )

    async def close(self) -> None:
        """See `KeeperClient`."""
        await self._link.close()

    async def ask(self, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS) -> A:
        """See `KeeperClient`."""
        return await self._link.ask(topic, question, seconds=seconds)

    def tell(self, topic: Topic[Q, A], question: Q) -> None:
        """See `KeeperClient`."""
        self._link.tell(topic, question)


class _LocalPort:
    """The keeper's way to the worker in its own process."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ask(self, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS) -> A:
        """See `Port`."""
        return await _ask_desk(self._desk, topic, question, seconds)


async def _ask_desk(desk: Desk, topic: Topic[Q, A], question: Q, seconds: float) -> A:
    try:
        async with asyncio.timeout(seconds):
            return await desk.ask(topic, 0, question)
    except TimeoutError:
        raise Unavailable(f"the service has not answered itself within {seconds:g} s ({topic.name})") from None
    except Unavailable:
        raise
    except Exception:
        logger.exception("a question could not be answered: %s", topic.name)
        raise Unavailable("the service failed to answer itself; its log says why") from None
