"""Streams that wait in one worker for whoever asks another one for them, over real sockets between real keepers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from service.engine import Engine
from service.errors import Unavailable
from service.inference.batcher import Batcher
from service.inference.catalog import Catalog
from service.keeper.client import LinkedKeeper
from service.keeper.keeper import Keeper
from service.keeper.link import ASK_SECONDS, Link
from service.keeper.topics import DESCRIBE_STREAM, GIVE_STREAM, PING, Message, Nothing, Topic
from service.observer import NullObserver
from service.settings import Settings
from service.stream_parking import MAX_ARRIVING, StreamParking
from service.streaming.driver import StreamDriver
from service.streaming.messages import Ready, ServerMessage, Tags
from tests.support.runners import FakeRunner, level

SETTINGS = Settings(_env_file=None)  # type: ignore[call-arg]
Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
QUERY = [("encoding", "s16le"), ("sample_rate", "16000")]


class BrokenChannel:
    """A second of sound comes; once its answer is sent the connection breaks."""

    def __init__(self) -> None:
        self.token = ""
        self._frames = [level(1, 16_000).tobytes()]
        self._has_answer = asyncio.Event()

    async def receive(self) -> str | bytes:
        if self._frames:
            return self._frames.pop()
        await self._has_answer.wait()
        raise ConnectionResetError

    async def send(self, message: ServerMessage) -> None:
        if isinstance(message, Ready):
            self.token = message.resume_token or ""
        elif isinstance(message, Tags):
            self._has_answer.set()

    async def close(self, code: int, reason: str) -> None:
        raise AssertionError("nobody closes it")

    async def has_arrived(self) -> bool:
        raise AssertionError("nobody closes it")


@dataclass
class LatePort:
    """The keeper's way to a worker that answers these topics too late, once each."""

    link: Link
    late: set[str] = field(default_factory=set)

    async def ask(self, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS) -> A:
        answer = await self.link.ask(topic, question, seconds=seconds)
        if topic.name in self.late:
            self.late.remove(topic.name)
            raise Unavailable("it has not answered in time")
        return answer


@asynccontextmanager
async def worker(keeper: Keeper, number: int, *late: Topic[Q, A]) -> AsyncIterator[StreamParking]:
    ours, theirs = socket.socketpair()
    link, client = Link(ours, keeper.desk, number), LinkedKeeper(theirs)
    parking = StreamParking(client, keep_seconds=60)
    await link.start()
    keeper.join(number, LatePort(link, {topic.name for topic in late}))
    await client.start()
    try:
        yield parking
    finally:
        parking.close()
        keeper.leave(number)
        await client.close()
        await link.close()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    with ThreadPoolExecutor(2) as executor:
        engine = Engine(settings=SETTINGS, metrics=NullObserver(), executor=executor)
        batcher = Batcher(FakeRunner(batch_sizes=(1,)), max_queue_windows=8, observer=engine.metrics)
        engine.catalog = Catalog({"fake": batcher})
        engine.catalog.start()
        yield engine
        await engine.close()


async def park(engine: Engine, parking: StreamParking) -> str:
    """Let a stream be answered for a second and break; return its token."""
    channel = BrokenChannel()
    driver = StreamDriver(engine, channel, "id", resumption=parking.of(""))
    await driver.run(QUERY)
    driver.is_left.set()
    return channel.token


async def test_a_stream_that_arrives_too_late_stays_where_it_is_and_is_had_at_the_next_try(engine: Engine) -> None:
    keeper = Keeper(SETTINGS)
    async with worker(keeper, 1) as here, worker(keeper, 2, DESCRIBE_STREAM, GIVE_STREAM) as there:
        token = await park(engine, there)
        for ask in (here.find, here.fetch):
            with pytest.raises(Unavailable, match="come again with the same resume_token"):
                await ask(token, "")
            assert there.num_held == len(keeper.parked) == 1
        demand = await here.find(token, "")
        assert demand is not None
        assert demand.windows_per_second == 1.0
        state = await here.fetch(token, "")
        assert state is not None
        assert json.loads(state)["sound"] is not None
        assert await here.find(token, "") is None, "it is where it was fetched to, and that one has lost it"
        await keeper.ask_worker(2, PING, Nothing())  # which comes after what the keeper told it
        assert there.num_held == len(keeper.parked) == 0


async def test_the_end_of_an_old_connection_does_not_touch_the_stream_that_goes_on(engine: Engine) -> None:
    keeper = Keeper(SETTINGS)
    async with worker(keeper, 1) as here:
        old = await park(engine, here)
        assert await here.find(old, "") is not None
        assert await here.fetch(old, "") is not None
        channel = BrokenChannel()
        driver = StreamDriver(engine, channel, "id", resumption=here.of(""))
        await driver.run(QUERY)
        driver.is_left.set()
        here.alias(channel.token, old)
        here.hold(old)
        here.drop(old)
        assert here.num_held == len(keeper.parked) == 1
        assert await here.fetch(channel.token, "") is not None


async def test_so_many_ends_are_waited_for_and_no_more() -> None:
    keeper = Keeper(SETTINGS)
    async with worker(keeper, 1) as parking:
        tokens = [parking.make_token() for _ in range(MAX_ARRIVING + 2)]
        assert [parking.expect(token) for token in tokens] == [True] * MAX_ARRIVING + [False] * 2
        parking.drop(tokens[0])
        parking.hold(tokens[1])
        assert [parking.expect(token) for token in tokens[-2:]] == [True, True]
