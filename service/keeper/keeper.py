"""What holds for the whole service, in one place: in the supervisor, or in the one process there is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol, TypeVar

from service.errors import Unavailable
from service.keeper.accounts import Accounts
from service.keeper.desk import Desk
from service.keeper.disk_room import DiskRoom
from service.keeper.link import ASK_SECONDS
from service.keeper.parked import ParkedStreams
from service.keeper.places import StreamPlaces
from service.keeper.reloads import Reloads
from service.keeper.topics import (
    COUNT_PLACES,
    DESCRIBE_STREAM,
    DROP_STREAM,
    FETCH_STREAM,
    FIND_STREAM,
    GIVE_STREAM,
    HELLO,
    HOLD_ROOM,
    LEAVE_PLACE,
    LEAVE_ROOM,
    PARK_STREAM,
    RELEASE_STREAM,
    SETTLE_STREAM,
    TAKE_PLACE,
    TAKEN_STREAM,
    UNPARK_STREAM,
    VERSION,
    Hello,
    HoldRoom,
    LeavePlace,
    LeaveRoom,
    Message,
    Nothing,
    ParkedStream,
    Place,
    Places,
    Room,
    StreamDemand,
    StreamState,
    StreamToken,
    TakePlace,
    Topic,
    Welcome,
)
from service.settings import Settings

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


GIVE_SECONDS: Final = 8.0
"""For the model to answer for what a stream had sent before its connection broke."""


class Port(Protocol):
    """A way to a worker."""

    async def ask(self, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS) -> A:
        """Ask the worker.

        Raises:
            Unavailable: It is gone or does not answer in time.
        """
        ...


class Keeper:
    """Answers for the whole service. Its methods belong to one event loop.

    Args:
        settings: The whole service's settings.
        clock: Seconds, rising; quotas are counted by it.
        replace: Ends a worker, by its number, so that another takes its place; None where there is one process.

    Attributes:
        desk: Who answers what workers ask.
        places: The live streams.
        room: The bodies on disk.
        parked: Those whose connection broke.
        reloads: Changes the models of all workers.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        replace: Callable[[int], None] | None = None,
    ) -> None:
        self.desk = Desk()
        self._accounts = Accounts(self.desk, clock)
        self.places = StreamPlaces(settings.max_streams)
        self.room = DiskRoom(settings.max_spooled_bodies)
        self.parked = ParkedStreams()
        self._ports: dict[int, Port] = {}
        self._fetching: dict[str, asyncio.Event] = {}
        self.reloads = Reloads(self.desk, self.ask_all, replace)
        self.desk.add(HELLO, _greet)
        self.desk.add(TAKE_PLACE, self._take_place)
        self.desk.add(LEAVE_PLACE, self._leave_place)
        self.desk.add(COUNT_PLACES, self._count_places)
        self.desk.add(HOLD_ROOM, self._hold_room)
        self.desk.add(LEAVE_ROOM, self._leave_room)
        self.desk.add(FIND_STREAM, self._find_stream)
        self.desk.add(FETCH_STREAM, self._fetch_stream)
        self.desk.add(TAKEN_STREAM, self._move_stream)
        self.desk.add(PARK_STREAM, self._park_stream)
        self.desk.add(UNPARK_STREAM, self._unpark_stream)
        self.desk.add(SETTLE_STREAM, self._settle_stream)

    def join(self, worker: int, port: Port) -> None:
        """A worker is there."""
        self._ports[worker] = port

    def leave(self, worker: int) -> None:
        """A worker is dead: what it held is free again."""
        self._ports.pop(worker, None)
        self.places.forget(worker)
        self.room.forget(worker)
        self.parked.forget(worker)
        self._accounts.forget(worker)

    async def ask_worker(self, worker: int, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS) -> A:
        """Ask one worker.

        Raises:
            Unavailable: It is gone or does not answer in time.
        """
        port = self._ports.get(worker)
        if port is None:
            raise Unavailable(f"worker {worker} is gone")
        return await port.ask(topic, question, seconds=seconds)

    async def ask_all(
        self, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS, among: Collection[int] | None = None
    ) -> dict[int, A | Unavailable]:
        """Ask every worker at once, or these; one that is gone or does not answer in time has the error for its answer."""
        workers = tuple(self._ports if among is None else among)
        answers = await asyncio.gather(
            *(self.ask_worker(worker, topic, question, seconds=seconds) for worker in workers), return_exceptions=True
        )
        outcome: dict[int, A | Unavailable] = {}
        for worker, answer in zip(workers, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, Unavailable):
                raise answer
            outcome[worker] = answer
        return outcome

    def _take_place(self, worker: int, question: TakePlace) -> Place:
        if question.limit is not None:
            self.places.limit = question.limit
        is_granted = self.places.take(worker, question.holder)
        return Place(is_granted=is_granted, taken=self.places.taken, limit=self.places.limit)

    def _leave_place(self, worker: int, question: LeavePlace) -> Nothing:
        self.places.leave(worker, question.holder)
        return Nothing()

    def _count_places(self, _worker: int, _question: Nothing) -> Places:
        return Places(taken=self.places.taken, limit=self.places.limit)

    def _hold_room(self, worker: int, question: HoldRoom) -> Room:
        granted = self.room.hold(worker, question.holder, question.num_bytes, question.needed_bytes)
        return Room(num_bytes=granted, taken_bytes=self.room.taken_bytes, limit_bytes=self.room.limit_bytes)

    def _leave_room(self, worker: int, question: LeaveRoom) -> Nothing:
        self.room.leave(worker, question.holder)
        return Nothing()

    def _park_stream(self, worker: int, question: ParkedStream) -> Nothing | Awaitable[Nothing]:
        # As many as may be open: whoever opens streams and breaks them off has no more of the memory than the places give.
        too_many = self.parked.add(worker, question.token, self.places.limit)
        return self._drop_streams(too_many) if too_many else Nothing()

    async def _drop_streams(self, streams: list[tuple[int, str]]) -> Nothing:
        for worker, token in streams:
            await self._tell_holder(worker, DROP_STREAM, ParkedStream(token=token))
        return Nothing()

    async def _tell_holder(self, worker: int, topic: Topic[ParkedStream, Nothing], stream: ParkedStream) -> Nothing:
        with contextlib.suppress(Unavailable):  # it is gone, and the stream with it, or will come to the end of it by itself
            await self.ask_worker(worker, topic, stream)
        return Nothing()

    def _unpark_stream(self, _worker: int, question: ParkedStream) -> Nothing:
        self.parked.remove(question.token)
        return Nothing()

    def _settle_stream(self, worker: int, question: ParkedStream) -> Nothing:
        self.parked.settle(question.token, worker)
        return Nothing()

    async def _find_stream(self, _worker: int, question: StreamToken) -> StreamDemand:
        await self._until_moved(question.token)
        try:
            return await self._ask_holder(DESCRIBE_STREAM, question, ASK_SECONDS) or StreamDemand()
        except Unavailable:
            return StreamDemand(is_late=True)

    async def _fetch_stream(self, _worker: int, question: StreamToken) -> StreamState:
        await self._until_moved(question.token)
        moved = self._fetching[question.token] = asyncio.Event()
        try:
            return await self._ask_holder(GIVE_STREAM, question, GIVE_SECONDS) or StreamState(state=None)
        except Unavailable:
            return StreamState(state=None, is_late=True)
        finally:
            del self._fetching[question.token]
            moved.set()

    def _move_stream(self, worker: int, question: ParkedStream) -> Nothing | Awaitable[Nothing]:
        holder = self.parked.worker_of(question.token)
        self.parked.move(question.token, worker, 2 * self.places.limit)  # open ones, and as many that are kept
        if holder is None or holder == worker:
            return Nothing()
        return self._tell_holder(holder, RELEASE_STREAM, question)

    async def _until_moved(self, token: str) -> None:
        """Wait while a stream is on its way from one worker to another: whoever asks comes after it."""
        while moved := self._fetching.get(token):
            await moved.wait()

    async def _ask_holder(self, topic: Topic[StreamToken, A], question: StreamToken, seconds: float) -> A | None:
        """Ask the worker that has the stream; one that is dead has taken its streams along.

        Raises:
            Unavailable: It does not answer in time, and may have the stream.
        """
        worker = self.parked.worker_of(question.token)
        if worker not in self._ports:
            return None
        return await self.ask_worker(worker, topic, question, seconds=seconds)


def _greet(worker: int, _hello: Hello) -> Welcome:
    return Welcome(version=VERSION, worker=worker)
