"""REST clients in a closed loop, from one process: requests are made before the first is sent, answers read to their end."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter

import numpy as np

from service.bench.orders import ClipsOrder, ClipsResult

_OK = 200


def make_request(order: ClipsOrder, clip: bytes) -> bytes:
    """Return a whole HTTP/1.1 request."""
    key = "" if order.api_key is None else f"Authorization: Bearer {order.api_key}\r\n"
    head = (
        f"POST {order.path} HTTP/1.1\r\nHost: {order.host}:{order.port}\r\nContent-Type: application/octet-stream\r\n"
        f"{key}Content-Length: {len(clip)}\r\n\r\n"
    )
    return head.encode("ascii") + clip


async def run_clips(order: ClipsOrder) -> ClipsResult:
    """Ask until the interval is over, and return what was measured in it.

    Raises:
        OSError: A connection cannot be had, or breaks.
    """
    requests = [make_request(order, clip) for clip in order.clips]
    # Made once: it reads all authorities of the machine.
    secure = ssl.create_default_context() if order.is_secure else None
    latency: list[float] = []
    refused: Counter[int] = Counter()

    async def ask(index: int) -> None:
        reader, writer = await asyncio.open_connection(order.host, order.port, ssl=secure)
        try:
            while (began := time.monotonic()) < order.interval.end:
                writer.write(requests[index % len(requests)])
                await writer.drain()
                status = await read_response(reader)
                ended = time.monotonic()
                index += order.num_clients
                if status != _OK:
                    refused[status] += 1
                    await asyncio.sleep(0.1)  # refusing costs the server little, and a client that insists measures nothing
                elif order.interval.holds(ended):
                    latency.append(ended - began)
        finally:
            writer.close()

    async def measure_cpu() -> float:
        await asyncio.sleep(max(0.0, order.interval.start - time.monotonic()))
        before = time.process_time()
        await asyncio.sleep(max(0.0, order.interval.end - time.monotonic()))
        return time.process_time() - before

    try:
        async with asyncio.TaskGroup() as group:
            usage = group.create_task(measure_cpu())
            for index in range(order.num_clients):
                group.create_task(ask(index))
    except ExceptionGroup as failed:  # the first one ended the others, and is what there is to say
        raise failed.exceptions[0] from failed
    return ClipsResult(np.array(latency, dtype=np.float64), dict(refused), usage.result())


async def read_response(reader: asyncio.StreamReader) -> int:
    """Read one answer with a Content-Length and return its status.

    Raises:
        ConnectionError: It ends too early, or is none that a Sonotag gives.
    """
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers["content-length"]))
        return int(status_line.split(" ")[1])
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the connection was closed before the answer was whole") from error
    except (asyncio.LimitOverrunError, KeyError, ValueError, IndexError) as error:
        raise ConnectionError(f"the answer is none of HTTP/1.1 with a length: {type(error).__name__}") from error
