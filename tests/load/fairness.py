"""What one bad client costs the others: `python -m tests.load.fairness`.

Live streams, half of what the service takes, speak as they do every day, and a job sends batches, so that the model is never
idle: a window that comes always finds one under way, with or without the bad client, and what is compared is who is let in
before it. For each kind of bad client the streams' p99 lag, from sending a window's last sample until its result is read, is
measured in turns, without it and with it (FAIRNESS_TURNS=3 each, FAIRNESS_SECONDS=15 long); the ratio is that of the medians.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.load.overload import Flood, probe, send_batches
from tests.load.soak import ROOT, speech_clients
from tests.load.streams import Seen, live_stream, percentile, send_in_real_time
from tests.load.traffic import Clients
from tests.support.process import running
from tests.support.websocket import stream_url

REPORT = ROOT / "build" / "load" / "fairness.md"
MAX_RATIO = 1.2
SETTLE_SECONDS = 2.0
Misdeed = Callable[[Clients, float], Awaitable[None]]


async def send_as_fast_as_taken(clients: Clients, until: float) -> None:
    """A file through the live protocol, hours of it, with every window wanted."""
    with suppress(ConnectionClosed, InvalidStatus):
        async with connect(stream_url(clients.url, {**clients.query, "on_lag": "wait"}), ping_interval=None) as socket:
            async with asyncio.timeout_at(_loop_time(until)):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(_drop_messages(socket))
                    while True:
                        await socket.send(clients.sound)


async def send_and_never_read(clients: Clients, until: float) -> None:
    """Every label of every window, and nothing of it is read: the kernel's buffers are small."""
    query = {**clients.query, "top_k": 1000, "on_lag": "wait"}
    with suppress(ConnectionClosed, InvalidStatus):
        async with connect(stream_url(clients.url, query), ping_interval=None, max_queue=1) as socket:
            await send_in_real_time(socket, clients.sound, clients.sample_rate, until)


async def read_slowly(clients: Clients, until: float) -> None:
    """The same, and one message in two seconds is read."""
    query = {**clients.query, "top_k": 1000, "on_lag": "wait"}
    with suppress(ConnectionClosed, InvalidStatus):
        async with connect(stream_url(clients.url, query), ping_interval=None, max_queue=1) as socket:
            sending = asyncio.create_task(send_in_real_time(socket, clients.sound, clients.sample_rate, until))
            while time.monotonic() < until:
                await socket.recv()
                await asyncio.sleep(2)
            sending.cancel()


async def post_many_clips(clients: Clients, until: float) -> None:
    """Sixteen clips at a time, one after the other."""

    async def post() -> None:
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                await clients.http.post(f"{clients.url}/v1/classify", content=clients.clip)

    await asyncio.gather(*(post() for _ in range(16)))


MISDEEDS: dict[str, Misdeed] = {
    "a stream as fast as it is taken": send_as_fast_as_taken,
    "a stream that never reads": send_and_never_read,
    "a stream that reads slowly": read_slowly,
    "sixteen clips at a time": post_many_clips,
}


async def _drop_messages(socket: object) -> None:
    async for _ in socket:  # type: ignore[attr-defined]
        pass


def _loop_time(moment: float) -> float:
    return asyncio.get_running_loop().time() + moment - time.monotonic()


async def measure(clients: Clients, seen: Seen, misdeed: Misdeed | None, seconds: float) -> float:
    """Return the others' p99 lag over so many seconds."""
    end = time.monotonic() + SETTLE_SECONDS + seconds
    doing = asyncio.create_task(misdeed(clients, end)) if misdeed else None
    await asyncio.sleep(SETTLE_SECONDS + seconds)
    if doing:
        with suppress(TimeoutError, asyncio.CancelledError, ExceptionGroup):
            await asyncio.wait_for(doing, 30)
    waits = seen.waits_between(end - seconds, end)
    await asyncio.sleep(SETTLE_SECONDS)
    return percentile(waits, 99)


async def compare(clients: Clients, num_streams: int, turns: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Return for each misdeed the others' p99 lag without and with it."""
    seen = Seen()
    until = time.monotonic() + 3600
    streams = []
    for _ in range(num_streams):
        streams.append(asyncio.create_task(live_stream(clients.url, clients.sound, clients.sample_rate, until, seen)))
        await asyncio.sleep(1 / num_streams)
    streams.append(asyncio.create_task(send_batches(clients, until, Flood())))
    await asyncio.sleep(6)
    found = {}
    for name, misdeed in MISDEEDS.items():
        alone, beside = [], []
        for _ in range(turns):
            alone.append(await measure(clients, seen, None, seconds))
            beside.append(await measure(clients, seen, misdeed, seconds))
        found[name] = (statistics.median(alone), statistics.median(beside))
        print(name, [f"{1000 * lag:.0f}" for lag in alone], [f"{1000 * lag:.0f}" for lag in beside], flush=True)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    print(*seen.failures[:5], sep="\n")
    return found


async def main() -> int:
    """Run it; the exit code says whether nobody can disturb the others."""
    turns, seconds = int(os.environ.get("FAIRNESS_TURNS", "3")), float(os.environ.get("FAIRNESS_SECONDS", "15"))
    with tempfile.TemporaryDirectory() as folder, running("service", "serve", cwd=Path(folder)) as process:
        clients = speech_clients(process.wait_ready())
        try:
            num_streams = max(2, round(0.4 * await probe(clients, 8)))
            found = await compare(clients, num_streams, turns, seconds)
        finally:
            await clients.close()
    rows = [f"| {name} | {1000 * a:.0f} ms | {1000 * b:.0f} ms | {b / a:.2f} |" for name, (a, b) in found.items()]
    text = "\n".join([f"| p99 lag of {num_streams} streams beside | without | with | ratio |", "|---|---|---|---|", *rows])
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(text + "\n")
    print(text)
    return 1 if any(b / a > MAX_RATIO for a, b in found.values()) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
