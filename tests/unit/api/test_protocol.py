from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from service.api.protocol import CONFIRMATION, FLOOD, SLICE_FRAMES, LingeringWebSocket, lingering_websocket


class Receiver:
    """An application that takes a message when the test asks for one."""

    def __init__(self) -> None:
        self.is_accepted = asyncio.Event()
        self.is_done = asyncio.Event()

    async def __call__(self, _scope: object, receive: object, send: object) -> None:
        self.receive, self.send = receive, send
        await receive()  # type: ignore[operator]
        await send({"type": "websocket.accept"})  # type: ignore[operator]
        self.is_accepted.set()
        await self.is_done.wait()

    async def take(self) -> bytes:
        message = await self.receive()  # type: ignore[operator]
        return bytes(message["bytes"])


@asynccontextmanager
async def connected(
    protocol_class: type[LingeringWebSocket],
) -> AsyncIterator[tuple[Receiver, LingeringWebSocket, socket.socket]]:
    receiver = Receiver()
    config = uvicorn.Config(receiver, lifespan="off")
    ours, theirs = socket.socketpair()
    made: list[LingeringWebSocket] = []

    def make() -> LingeringWebSocket:
        made.append(protocol_class(config, ServerState(), {}))
        return made[0]

    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(make, ours)
    client = ClientProtocol(parse_uri("ws://localhost/"))
    client.send_request(client.connect())
    with theirs:
        theirs.sendall(b"".join(client.data_to_send()))
        await receiver.is_accepted.wait()
        yield receiver, made[0], theirs
        receiver.is_done.set()
        transport.abort()
        await asyncio.gather(*made[0].tasks, return_exceptions=True)


def block(num_frames: int) -> bytes:
    return b"".join(Frame(Opcode.BINARY, number.to_bytes(2, "big")).serialize(mask=True) for number in range(num_frames))


async def test_of_many_frames_that_come_at_once_few_wait_in_here_and_none_is_lost() -> None:
    async with connected(lingering_websocket(max_messages_per_second=1_000_000)) as (receiver, protocol, client):
        client.sendall(block(1_000))
        for number in range(1_000):
            assert await receiver.take() == number.to_bytes(2, "big")
            assert protocol.queue.qsize() < SLICE_FRAMES
        assert not protocol.read_paused, "more may come"


async def test_frames_that_come_faster_than_they_may_are_not_read_for_now() -> None:
    limited = lingering_websocket(max_messages_per_second=0.001, frames_per_second=0.001)
    async with connected(limited) as (receiver, protocol, client):
        client.sendall(block(2 * SLICE_FRAMES))
        for _ in range(SLICE_FRAMES):
            await receiver.take()
        assert protocol.queue.empty()
        assert protocol.read_paused


def closing(code: int) -> bytes:
    return Frame(Opcode.CLOSE, code.to_bytes(2, "big")).serialize(mask=True)


async def close(receiver: Receiver, code: int = 1000) -> asyncio.Future[bool]:
    confirmation: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    await receiver.send({"type": "websocket.close", "code": code, CONFIRMATION: confirmation})  # type: ignore[operator]
    return confirmation


@pytest.mark.parametrize(
    ("ours", "theirs", "is_there"),
    [
        (1000, 1000, True),
        (4408, 4408, True),
        (4408, 1001, True),
        (1000, 1011, False),  # a library that has waited for its pong in vain, say
    ],
)
async def test_a_close_is_confirmed_by_the_close_of_a_client_that_is_well(ours: int, theirs: int, *, is_there: bool) -> None:
    async with connected(lingering_websocket(max_messages_per_second=100)) as (receiver, _, client):
        confirmation = await close(receiver, ours)
        client.sendall(block(1))  # what was on its way
        assert not confirmation.done()
        client.sendall(closing(theirs))
        assert await confirmation == is_there


async def test_a_close_is_not_confirmed_by_a_client_that_is_gone() -> None:
    async with connected(lingering_websocket(max_messages_per_second=100)) as (receiver, _, client):
        confirmation = await close(receiver)
        client.close()
        assert not await confirmation


@pytest.mark.parametrize(("code", "is_there"), [(1000, True), (1001, True), (1011, False)])
async def test_a_client_that_closes_first_and_is_well_wants_no_end(code: int, *, is_there: bool) -> None:
    async with connected(lingering_websocket(max_messages_per_second=100)) as (receiver, _, client):
        client.sendall(closing(code))
        assert (await receiver.receive())["type"] == "websocket.disconnect"  # type: ignore[operator]
        assert await (await close(receiver)) == is_there


async def test_nobody_waits_for_a_client_that_is_not_read_any_more() -> None:
    async with connected(lingering_websocket(max_messages_per_second=0.001)) as (receiver, _, client):
        client.sendall(b"".join(Frame(Opcode.PONG, b"").serialize(mask=True) for _ in range(100)))
        assert FLOOD in await receiver.receive()  # type: ignore[operator]
        assert await close(receiver, 4429)
