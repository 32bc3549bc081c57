"""SIGTERM under load: whatever was accepted is answered, everybody is told, and the process ends with 0."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from service import exit_codes
from tests.support.process import running
from tests.support.runners import level
from tests.support.websocket import Stream

RAW = {"encoding": "s16le", "sample_rate": 16_000, "hop": 0.5}
NUM_STREAMS, NUM_UPLOADS = 50, 20
UPLOAD = b"".join([b"RIFF\xff\xff\xff\xffWAVEfmt ", b"\x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\xff\xff\xff\xff"])


async def upload(client: httpx.AsyncClient, is_sent: asyncio.Event, may_end: asyncio.Event) -> httpx.Response:
    """A clip of three seconds, whose last one comes only when it may."""

    async def body() -> object:
        yield UPLOAD + level(1, 32_000).tobytes()
        is_sent.set()
        await may_end.wait()
        yield level(1, 16_000).tobytes()

    return await client.post("/v1/classify", content=body(), timeout=60)  # type: ignore[arg-type]


async def listen(url: str, is_heard: asyncio.Event) -> list[dict[str, object]]:
    """A stream with 1.4 s of sound, to whatever end the server gives it."""
    async with Stream(url, RAW) as listener:
        await listener.send(level(1, 16_000).tobytes())
        await listener.until("tags", 2)
        await listener.send(level(2, 6_400).tobytes())
        is_heard.set()
        told = await listener.closed()
    assert told.code == 1001, told
    return told.messages


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_drain_under_load_answers_whatever_was_accepted(tmp_path: Path, workers: str) -> None:
    with running("tests.support.fake_service", cwd=tmp_path, environ={"SONOTAG_WORKERS": workers}) as service:
        url = await asyncio.to_thread(service.wait_ready)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, limits=limits) as client:
            heard = [asyncio.Event() for _ in range(NUM_STREAMS)]
            sent = [asyncio.Event() for _ in range(NUM_UPLOADS)]
            may_end = asyncio.Event()
            streams = [asyncio.create_task(listen(url, event)) for event in heard]
            uploads = [asyncio.create_task(upload(client, event, may_end)) for event in sent]
            async with asyncio.timeout(60):
                for event in (*heard, *sent):
                    await event.wait()
            service.send_signal(signal.SIGTERM)
            for messages in await asyncio.gather(*streams):
                kinds = [message["type"] for message in messages]
                assert "going_away" in kinds
                ends = [message["end"] for message in messages if message["type"] == "tags"]
                assert ends in ([0.5, 1.0, 1.4], [0.5, 1.0]), "the tail too, where it had come before the drain"
                assert kinds[-1] != "error"
            may_end.set()
            for response in await asyncio.gather(*uploads):
                assert response.status_code == 200, response.text
                assert response.json()["duration"] == 3.0
        assert await asyncio.to_thread(service.wait) == exit_codes.OK
        assert "Traceback" not in service.stderr
