"""Live streams at real speed, and what they saw: for overload and fairness."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from service.client.retry import SPREAD
from tests.support.websocket import stream_url

CHUNK_SECONDS = 0.2
RETRY_SECONDS = 5.0


@dataclass
class Seen:
    """What all streams of a stage saw.

    Attributes:
        lags: Seconds, by the service's own definition, with when each came (`time.monotonic`).
        waits: Seconds from when a window's last sample was sent until its result came, with when it came.
        dropped_seconds: Sound announced as not scored.
        refusals: Seconds that each refused upgrade took.
        num_open: Streams that were taken.
        failures: What should not have happened.
    """

    lags: list[tuple[float, float]] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    dropped_seconds: float = 0.0
    refusals: list[float] = field(default_factory=list)
    num_open: int = 0
    failures: list[str] = field(default_factory=list)

    def lags_between(self, start: float, end: float) -> list[float]:
        """Return the lags of what came in an interval."""
        return [lag for at, lag in self.lags if start <= at < end]

    def waits_between(self, start: float, end: float) -> list[float]:
        """Return the waits of what came in an interval."""
        return [wait for at, wait in self.waits if start <= at < end]


def percentile(values: list[float], share: float) -> float:
    """Return a percentile, nan of nothing."""
    return float(np.percentile(values, share)) if values else float("nan")


async def send_in_real_time(
    socket: ClientConnection, sound: bytes, rate: int, until: float, sent_at: list[float] | None = None
) -> None:
    """Send sound, again and again, as a microphone does; note when each piece was sent."""
    size = 2 * round(rate * CHUNK_SECONDS)
    started, count = time.monotonic(), 0
    while (now := time.monotonic()) < until:
        start = count * size % (len(sound) - size)
        await socket.send(sound[start - start % 2 :][:size])
        if sent_at is not None:
            sent_at.append(time.monotonic())
        count += 1
        await asyncio.sleep(max(0.0, started + count * CHUNK_SECONDS - now))


async def read_messages(socket: ClientConnection, seen: Seen, sent_at: list[float]) -> None:
    """Note what a stream is told."""
    with suppress(ConnectionClosed):
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "tags":
                now = time.monotonic()
                seen.lags.append((now, message["lag_ms"] / 1000))
                last_piece = math.ceil(message["end"] / CHUNK_SECONDS - 1e-6) - 1
                if last_piece < len(sent_at):  # else its sending has not come back yet
                    seen.waits.append((now, now - sent_at[last_piece]))
            elif message["type"] == "warning" and message["code"] == "lag":
                seen.dropped_seconds += message["dropped_to"] - message["dropped_from"]
            elif message["type"] == "error":
                seen.failures.append(message["message"])


async def live_stream(url: str, sound: bytes, rate: int, until: float, seen: Seen) -> None:
    """Stream until a time; who is refused comes again when the service says, or a little later, as our client does."""
    query = {"encoding": "s16le", "sample_rate": rate, "hop": 1.0}
    while (began := time.monotonic()) < until:
        try:
            async with connect(stream_url(url, query), open_timeout=60, ping_interval=None) as socket:
                seen.num_open += 1
                sent_at: list[float] = []
                reading = asyncio.create_task(read_messages(socket, seen, sent_at))
                with suppress(ConnectionClosed):
                    await send_in_real_time(socket, sound, rate, until, sent_at)
                    await socket.send('{"type": "stop"}')
                await reading
                if socket.close_code != 1000:
                    seen.failures.append(f"closed with {socket.close_code}")
                return
        except InvalidStatus as error:
            seen.refusals.append(time.monotonic() - began)
            if error.response.status_code != 503:
                seen.failures.append(f"refused with {error.response.status_code}")
            told = float(error.response.headers.get("Retry-After", RETRY_SECONDS))
            await asyncio.sleep(told * (1 + SPREAD * random.random()))
        except (OSError, TimeoutError) as error:
            seen.failures.append(f"{type(error).__name__}: {error}")
            return
