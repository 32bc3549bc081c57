"""Many live streams from one process, at a few hundredths of a millisecond for each piece of sound.

The frames are made, masked and all, before the first stream opens and shared by all of them, so that sending one is a write to
a socket; only the handshake and what the server says go through a websocket library (its protocol without I/O).
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import time
from collections.abc import Sequence

import numpy as np
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import WebSocketURI, parse_uri

from service.bench.orders import CHUNK_SECONDS, Interval, StreamsOrder, StreamsResult

CLOSE_SECONDS = 1.0
MAX_FAILURES = 20


def make_frames(sound: bytes, chunk_bytes: int) -> tuple[bytes, ...]:
    """Cut a sound into whole pieces and return each as a masked websocket frame."""
    starts = range(0, len(sound) - chunk_bytes + 1, chunk_bytes)
    return tuple(Frame(Opcode.BINARY, sound[start : start + chunk_bytes]).serialize(mask=True) for start in starts)


class LiveStream(asyncio.Protocol):
    """One stream: a connection that sends on a schedule and notes when windows are answered.

    Args:
        uri: Where to.
        frames: The sound, from where this stream begins; none for a silent stream.
        until: When to send the last piece.
        order: What is measured, the key, and how fast to send.
    """

    def __init__(self, uri: WebSocketURI, frames: Sequence[bytes], until: float, order: StreamsOrder) -> None:
        self._websocket = ClientProtocol(uri, max_size=None)
        self._frames = frames
        self._until = until
        self._interval = order.interval
        self._api_key = order.api_key
        self._period = CHUNK_SECONDS / order.speed
        self._transport: asyncio.Transport | None = None
        self._next_at = 0.0
        self._sent_at: list[float] = []
        self._is_ending = False
        self.is_open = False
        self.closed = asyncio.Event()
        self.failure: str | None = None
        self.lateness: list[float] = []
        self.answers: list[tuple[float, float, float]] = []
        """For each window of the interval: when it was sent, the lag as it is seen here, and as the server says it."""
        self.dropped_seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        request = self._websocket.connect()
        if self._api_key is not None:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        self._websocket.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take what the server says."""
        now = time.monotonic()
        self._websocket.receive_data(data)
        for event in self._websocket.events_received():
            if isinstance(event, Response):
                if self._websocket.handshake_exc is not None:
                    self._fail(_describe(self._websocket.handshake_exc))
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._take(json.loads(bytes(event.data)), now)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, and whether anybody here wanted it."""
        self.closed.set()
        if not self._is_ending:
            code = self._websocket.close_rcvd.code if self._websocket.close_rcvd else 1006
            self._fail(f"closed with {code}")

    def end(self) -> None:
        """Stop the stream, as a client does, and leave if the service does not close it soon."""
        self._is_ending = True
        if self._transport is not None and not self._transport.is_closing():
            if self.is_open:
                self._websocket.send_text(b'{"type": "stop"}')
                self._flush()
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.abort)

    def count_expected(self, hop_seconds: float) -> int:
        """Return how many windows ended with a piece of sound that was sent in the interval."""
        num_windows = int(len(self._sent_at) * CHUNK_SECONDS / hop_seconds + 1e-9)
        ends = ((index + 1) * hop_seconds for index in range(num_windows))
        return sum(self._interval.holds(self._sent_at[_piece_of(end)]) for end in ends)

    def _take(self, message: dict[str, object], now: float) -> None:
        match message:
            case {"type": "ready"}:
                self.is_open = True
                self._next_at = now
                if self._frames:
                    self._send()
            case {"type": "tags", "end": float() | int() as end, "lag_ms": float() | int() as lag_ms}:
                sent_at = self._sent_at[_piece_of(end)]
                if self._interval.holds(sent_at):
                    self.answers.append((sent_at, now - sent_at, lag_ms / 1000))
            case {"type": "warning", "dropped_from": float() | int() as since, "dropped_to": float() | int() as until}:
                self.dropped_seconds += until - since
            case {"type": "error", "message": str() as text}:
                self._fail(text)

    def _send(self) -> None:
        """Send every piece of sound that is due, and come back for the next one."""
        assert self._transport is not None
        if self._is_ending or self._transport.is_closing():
            return
        now = time.monotonic()
        while self._next_at <= now:
            if self._interval.holds(now):
                self.lateness.append(now - self._next_at)
            self._transport.write(self._frames[len(self._sent_at) % len(self._frames)])
            self._sent_at.append(now)
            self._next_at += self._period
        if self._next_at < self._until:
            asyncio.get_running_loop().call_at(self._next_at, self._send)

    def _flush(self) -> None:
        assert self._transport is not None
        for data in self._websocket.data_to_send():
            if data:
                self._transport.write(data)

    def _fail(self, text: str) -> None:
        if self.failure is None and not self._is_ending:
            self.failure = text


async def run_streams(order: StreamsOrder) -> StreamsResult:
    """Open the streams, feed them, and return what was measured. The loop's clock must be `time.monotonic`."""
    loop = asyncio.get_running_loop()
    uri = parse_uri(order.url)
    chunk_bytes = 2 * round(order.sample_rate * CHUNK_SECONDS)
    sounds = [make_frames(sound, chunk_bytes) for sound in order.sounds]
    until = order.interval.end + order.grace_seconds
    streams: list[LiveStream] = []
    usage = asyncio.create_task(_measure_cpu(order.interval))
    # Made once: it reads all authorities of the machine, some 20 ms in which no stream sends.
    secure = ssl.create_default_context() if uri.secure else None
    for index, start in enumerate(order.starts):
        await _sleep_until(start)
        frames = () if order.is_silent else sounds[index % len(sounds)]
        # From another place of the sound each, so that not all of them hear the same at once.
        first = 7 * index % len(frames) if frames else 0
        stream = LiveStream(uri, frames[first:] + frames[:first], until, order)
        streams.append(stream)
        try:
            await loop.create_connection(lambda stream=stream: stream, uri.host, uri.port, ssl=secure)
        except OSError as error:
            stream.failure = f"no connection: {error.strerror or error}"
    await _sleep_until(until)
    cpu_seconds = await usage
    result = _collect(streams, order, cpu_seconds)
    for stream in streams:
        stream.end()
    for stream in streams:
        if stream.is_open:
            await stream.closed.wait()
    return result


def _collect(streams: Sequence[LiveStream], order: StreamsOrder, cpu_seconds: float) -> StreamsResult:
    answers = np.array([answer for stream in streams for answer in stream.answers], dtype=np.float64).reshape(-1, 3)
    return StreamsResult(
        opened=sum(stream.is_open for stream in streams),
        failures=tuple(
            stream.failure or "no answer to the upgrade" for stream in streams if stream.failure or not stream.is_open
        )[:MAX_FAILURES],
        expected=sum(stream.count_expected(order.hop_seconds) for stream in streams),
        sent_at=answers[:, 0],
        client_lag=answers[:, 1],
        server_lag=answers[:, 2],
        dropped_seconds=sum(stream.dropped_seconds for stream in streams),
        lateness=np.array([late for stream in streams for late in stream.lateness], dtype=np.float64),
        cpu_seconds=cpu_seconds,
    )


def _piece_of(end: float) -> int:
    """Return the index of the piece of sound that holds the last sample before a time."""
    return math.ceil(end / CHUNK_SECONDS - 1e-6) - 1


def _describe(error: BaseException) -> str:
    if isinstance(error, InvalidStatus):
        return f"the upgrade was refused with {error.response.status_code}"
    return str(error) or type(error).__name__


async def _measure_cpu(interval: Interval) -> float:
    await _sleep_until(interval.start)
    before = time.process_time()
    await _sleep_until(interval.end)
    return time.process_time() - before


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
