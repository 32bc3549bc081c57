"""SIGTERM under load: whatever was accepted is answered, everybody is told, and the process ends with 0."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service import exit_codes
from tests.support.process import running
from tests.support.runners import held_gate, level
from tests.support.websocket import Stream

RAW = {"encoding": "s16le", "sample_rate": 16_000, "hop": 0.5}
NUM_STREAMS, NUM_UPLOADS = 50, 20
UPLOAD = b"".join([b"RIFF\xff\xff\xff\xffWAVEfmt ", b"\x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\xff\xff\xff\xff"])


async def upload(client: httpx.AsyncClient, may_end: asyncio.Event, is_sent: asyncio.Event) -> httpx.Response:
    """A clip of three seconds, whose last one comes only when it may."""

    async def body() -> object:
        yield UPLOAD + level(1, 32_000).tobytes()
        is_sent.set()
        await may_end.wait()
        yield level(1, 16_000).tobytes()

    return await client.post("/v1/classify", content=body(), timeout=60)  # type: ignore[arg-type]


async def until_accepted(client: httpx.AsyncClient, workers: int) -> None:
    """Wait until the service has all the sound that is sent: each window waits for the model but one a worker, which it
    has in hand."""
    waiting = NUM_STREAMS + 3 * len(range(1, NUM_UPLOADS, 2)) - workers
    wanted = {
        f'sonotag_audio_received_seconds_total{{source="stream"}} {NUM_STREAMS * 1.75}',
        f'sonotag_queue_depth_windows{{model="fake"}} {waiting}.0',
    }
    async with asyncio.timeout(60):
        while not wanted <= set((await client.get("/metrics")).text.splitlines()):
            pass


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_drain_under_load_answers_whatever_was_accepted(tmp_path: Path, workers: int) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    environ = {"SONOTAG_WORKERS": str(workers), "SONOTAG_MAX_LAG_SECONDS": "60", "FAKE_GATE": str(gate)}
    async with AsyncExitStack() as stack:
        service = stack.enter_context(running("tests.support.fake_service", cwd=tmp_path, environ=environ))
        url = await asyncio.to_thread(service.wait_ready)
        limits = httpx.Limits(max_connections=None)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, limits=limits, timeout=60))
        streams = [await stack.enter_async_context(Stream(url, RAW)) for _ in range(NUM_STREAMS)]
        for stream in streams:
            await stream.send(level(1, 16_000).tobytes())
        for stream in streams:
            await stream.until("tags", 2)
        is_drained, at_once = asyncio.Event(), asyncio.Event()
        at_once.set()
        sent = [asyncio.Event() for _ in range(NUM_UPLOADS)]
        with held_gate(gate):
            for stream in streams:
                await stream.send(level(2, 12_000).tobytes())
            uploads = []
            for number, event in enumerate(sent):
                uploads.append(asyncio.create_task(upload(client, at_once if number % 2 else is_drained, event)))
                await event.wait()
            await until_accepted(client, workers)
            service.send_signal(signal.SIGTERM)
            for stream in streams:
                await stream.until("going_away")
            assert [stream.told.tags[-1]["end"] for stream in streams] == [1.0] * NUM_STREAMS, "nothing is answered yet"
            assert not any(task.done() for task in uploads)
        is_drained.set()
        for stream in streams:
            told = await stream.closed()
            assert told.code == 1001
            assert [message["end"] for message in told.tags] == [0.5, 1.0, 1.5, 1.75]
            assert not told.of_type("error", "warning")
        for response in await asyncio.gather(*uploads):
            assert response.status_code == 200, response.text
            assert response.json()["duration"] == 3.0
        assert await asyncio.to_thread(service.wait) == exit_codes.OK
        under_way = re.findall(r"drain begins.* under_way=(\d+)", service.stderr)
        assert sum(map(int, under_way)) == NUM_STREAMS + NUM_UPLOADS
        assert "Traceback" not in service.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("form", ["body", "multipart"])
async def test_a_body_that_still_comes_when_the_drains_time_is_up_is_refused_and_the_drain_is_complete(
    tmp_path: Path, workers: str, form: str
) -> None:
    environ = {"SONOTAG_WORKERS": workers, "SONOTAG_DRAIN_SECONDS": "0.5"}
    with running("tests.support.fake_service", cwd=tmp_path, environ=environ) as service:
        address = urlsplit(await asyncio.to_thread(service.wait_ready))
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n")
        kind = b"multipart/form-data; boundary=x" if form == "multipart" else b"application/octet-stream"
        writer.write(b"Content-Type: " + kind + b"\r\n\r\n")
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n"), "its body is waited for"
        if form == "multipart":
            writer.write(b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n')
        service.send_signal(signal.SIGTERM)
        answering = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        while not answering.done():
            writer.write(bytes(100))
            await asyncio.wait([answering], timeout=0.1)  # 1 kB/s
        head = answering.result().decode().lower()
        assert head.startswith("http/1.1 503 ")
        assert "\r\nretry-after: 1\r\n" in head
        assert b'"draining"' in await reader.read(), "and that is the end of the connection"
        writer.close()
        assert await asyncio.to_thread(service.wait) == exit_codes.OK
    assert re.search(r"drain refuses bodies that have not all come \(SONOTAG_DRAIN_SECONDS\).* bodies=1", service.stderr)
    assert "drain is complete" in service.stderr
    assert "drain ends unfinished" not in service.stderr
    assert re.search(r"request refused .*outcome=draining", service.stderr), "it is in the audit"
