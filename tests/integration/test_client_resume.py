"""The Python client goes on with its stream where the connection breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from service.audio.formats import RawFormat
from service.client.async_client import AsyncClient
from service.client.errors import Disconnected
from service.client.retry import Retry
from service.client.sent import SentFrames
from service.streaming.messages import Flush, KeepAlive, Ready, ServerMessage, Summary, Tags
from tests.support.app_server import serving
from tests.support.runners import level
from tests.support.wire import Wire, wired

PIECE = level(1, 1600).tobytes()


def said(messages: list[ServerMessage]) -> list[dict[str, object]]:
    return [m.model_dump(exclude={"lag_ms"}) for m in messages if not isinstance(m, Ready)]


async def test_a_stream_whose_connection_breaks_again_and_again_says_what_an_unbroken_one_says() -> None:
    fields = {"encoding": "s16le", "sample_rate": 16_000, "hop": 0.5, "on_lag": "wait"}
    with serving() as server:
        async with wired(server.url) as wire, AsyncClient(wire.url, retry=Retry(first_wait_seconds=0.01)) as client:
            whole = [m async for m in client.stream([PIECE] * 60, **fields)]  # type: ignore[arg-type]
            before = wire.num_connections
            messages: list[ServerMessage] = []
            async for message in client.stream([PIECE] * 60, **fields):  # type: ignore[arg-type]
                messages.append(message)
                if isinstance(message, Tags) and message.end in (1.0, 3.0, 4.5):
                    wire.cut()
    assert wire.num_connections == before + 4
    assert said(messages) == said(whole)
    assert isinstance(messages[-1], Summary)
    assert sum(isinstance(message, Ready) for message in messages) == 4


async def test_a_stream_that_the_server_does_not_keep_is_told_to_be_broken() -> None:
    with serving(resume_seconds=0) as server:
        async with wired(server.url) as wire, AsyncClient(wire.url) as client:
            messages = client.stream([PIECE] * 60, encoding="s16le", sample_rate=16_000)
            with pytest.raises(Disconnected):
                await cut_at_tags(messages, wire)


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
