"""The Python client goes on with its stream where the connection breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from service.audio.formats import RawFormat
from service.client.async_client import AsyncClient
from service.client.errors import Disconnected
from service.client.retry import Retry
from service.client.sent import SentFrames
from service.streaming.messages import Flush, KeepAlive, Ready, ServerMessage, Summary, Tags
from tests.support.app_server import serving
from tests.support.runners import level
from tests.support.websocket import Stream
from tests.support.wire import Wire, wired

PIECE = level(1, 1600).tobytes()
FIELDS = {"encoding": "s16le", "sample_rate": 16_000, "hop": 0.5, "on_lag": "wait"}
NOT_NOW = {
    "type": "error",
    "message": "not now",
    "param": None,
    "retryable": True,
    "retry_after_s": 5.0,
    "fatal": True,
}


class Waiting:
    """A clock that only pauses move, and what happens in each of them."""

    def __init__(self, *meanwhile: Callable[[], Awaitable[None]]) -> None:
        self.pauses: list[float] = []
        self._meanwhile = iter(meanwhile)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if (event := next(self._meanwhile, None)) is not None:
            await event()

    @property
    def retry(self) -> Retry:
        return Retry(sleep=self.sleep, clock=lambda: sum(self.pauses), random=lambda: 0.0)


async def none_open(url: str) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(60):
        while (await client.get(url + "/v1/capacity")).json()["streams_open"]:
            pass


def said(messages: list[ServerMessage]) -> list[dict[str, object]]:
    return [m.model_dump(exclude={"lag_ms"}) for m in messages if not isinstance(m, Ready)]


async def test_a_stream_whose_connection_breaks_again_and_again_says_what_an_unbroken_one_says() -> None:
    with serving() as server:
        async with wired(server.url) as wire, AsyncClient(wire.url, retry=Retry(first_wait_seconds=0.01)) as client:
            whole = [m async for m in client.stream([PIECE] * 60, **FIELDS)]  # type: ignore[arg-type]
            before = wire.num_connections
            messages: list[ServerMessage] = []
            async for message in client.stream([PIECE] * 60, **FIELDS):  # type: ignore[arg-type]
                messages.append(message)
                if isinstance(message, Tags) and message.end in (1.0, 3.0, 4.5):
                    wire.cut()
    # What had come already when a connection was cut is read all the same: if that is the rest, no other one is needed.
    num_connections = wire.num_connections - before
    assert 2 <= num_connections <= 4
    assert said(messages) == said(whole)
    assert isinstance(messages[-1], Summary)
    assert sum(isinstance(message, Ready) for message in messages) == num_connections


async def test_a_stream_that_the_server_does_not_keep_is_told_to_be_broken() -> None:
    with serving(resume_seconds=0) as server:
        async with wired(server.url) as wire, AsyncClient(wire.url) as client:
            messages = client.stream([PIECE] * 60, encoding="s16le", sample_rate=16_000)
            with pytest.raises(Disconnected):
                await cut_at_tags(messages, wire)


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_stream_whose_place_is_taken_meanwhile_is_asked_for_as_long_as_it_is_kept(leaves: bool) -> None:
    with serving(max_streams=1) as server:
        other = Stream(server.url)

        async def come() -> None:
            await none_open(server.url)
            await other.__aenter__()
            wire.is_up = True

        async def leave() -> None:
            await other.__aexit__(None, None, None)
            await none_open(server.url)

        waiting = Waiting(come, *([leave] if leaves else []))
        async with wired(server.url) as wire, AsyncClient(wire.url, retry=waiting.retry) as client:
            messages: list[ServerMessage] = []
            try:
                async for message in client.stream([PIECE] * 60, **FIELDS):  # type: ignore[arg-type]
                    messages.append(message)
                    if isinstance(message, Tags) and message.end == 1.0:
                        wire.is_up = False
                        wire.cut()
                ended = None
            except Disconnected as error:
                ended = str(error)
        if leaves:
            assert ended is None
            assert waiting.pauses == [0.25, 5.0]
            assert [m.end for m in messages if isinstance(m, Tags)] == [0.5 * n for n in range(1, 13)]
        else:
            assert ended is not None
            assert "broke off with 1006, and could not go on: 1 streams are open, the limit is 1" in ended
            assert waiting.pauses == [0.25, 5.0, 5.0, 5.0, 5.0, 5.0], "another 5 s would be more than 30 s in all"
            await leave()


@pytest.mark.parametrize("code", ["queue_full", "unavailable"])
async def test_a_stream_that_is_closed_with_4503_when_it_is_to_go_on_goes_on_later(code: str) -> None:
    waiting = Waiting()
    with serving() as server:
        async with refusing(server.url, 2, code) as url, AsyncClient(url, retry=waiting.retry) as client:
            messages = [m async for m in client.stream([PIECE] * 60, **FIELDS)]  # type: ignore[arg-type]
    assert waiting.pauses == [5.0, 5.0]
    assert [m.end for m in messages if isinstance(m, Tags)] == [0.5 * n for n in range(1, 13)]
    assert sum(isinstance(message, Ready) for message in messages) == 2
    assert isinstance(messages[-1], Summary)


@asynccontextmanager
async def refusing(target: str, num_refused: int, code: str) -> AsyncIterator[str]:
    """Run a door to a server: it breaks the first stream after its first tags, and refuses so many that follow."""
    num_come = 0

    async def let_in(near: ServerConnection) -> None:
        nonlocal num_come
        num_come += 1
        if 1 < num_come <= 1 + num_refused:
            await near.send(json.dumps({**NOT_NOW, "code": code}))
            await near.close(4503, code)
            return
        assert near.request is not None
        async with connect(target.replace("http", "ws", 1) + near.request.path) as far:
            up = asyncio.create_task(carry(near, far))
            async for text in far:
                await near.send(text)
                if num_come == 1 and json.loads(text)["type"] == "tags":
                    near.transport.abort()
                    far.transport.abort()
                    break
            await near.close(far.close_code or 1000)
            await up

    async with serve(let_in, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}"


async def carry(near: ServerConnection, far: ClientConnection) -> None:
    try:
        async for frame in near:
            await far.send(frame)
    except ConnectionClosed:
        pass


async def cut_at_tags(messages: AsyncIterator[ServerMessage], wire: Wire) -> None:
    async for message in messages:
        if isinstance(message, Tags):
            wire.cut()


def test_what_was_sent_is_kept_by_the_position_of_its_sound() -> None:
    sent = SentFrames(RawFormat("s16le", 4000, 1), keep_seconds=1)
    sent.add(b"a" * 4000)
    sent.add(Flush(type="flush"))
    sent.add(KeepAlive(type="keep_alive"))  # however many come in an outage of days
    sent.add(b"b" * 4001)
    assert sent.earliest_seconds == 0
    assert list(sent.since(0.25)) == [b"a" * 2000, Flush(type="flush"), b"b" * 4001]
    assert list(sent.since(0.6)) == [b"b" * 3201]
    sent.add(b"c" * 4001)
    assert sent.earliest_seconds == 0.5
    assert list(sent.since(1.0)) == [b"b", b"c" * 4001]
    assert list(sent.since(9.0)) == []
