"""What clients do, good and bad: each deed says how it ended. For soak and chaos.

The account. Every deed that was begun (*sent*) ends as exactly one of:

answered
    the promised end came: the right answer, the documented error for what is wrong on purpose, or the close with its code
refused
    503 with a retryable error and ``Retry-After``, at the request or at the upgrade; or a stream's fatal retryable error
left
    the client went away on purpose, before the end
broken
    the connection ended without an answer, or none could be made, and a worker was killed while the deed went on or within
    `GRACE_SECONDS` before it began: nobody can answer for a process that is gone
lost
    anything else: no end within `PATIENCE_SECONDS`, a connection that ended by itself, a wrong or undocumented answer

So sent = answered + refused + left + broken + lost, and a service is good if lost is 0.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from tests.support.websocket import stream_url

PATIENCE_SECONDS = 120.0
GRACE_SECONDS = 1.0
CHUNK_SECONDS = 0.25
GOOD, REFUSED, LEFT, BROKEN, LOST = "answered", "refused", "left", "broken", "lost"


class Wrong(Exception):
    """An answer that nobody promised."""


@dataclass
class Account:
    """How the deeds ended.

    Attributes:
        ends: How many by end.
        kinds: How many by kind and end.
        losses: What was lost, in words.
        kills: When workers were killed, by `time.monotonic`.
    """

    ends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    kills: list[float] = field(default_factory=list)
    sent: int = 0

    def judge(self, began: float, ended: float, error: Exception) -> str:
        """Return how a deed without an answer ended."""
        if isinstance(error, Wrong | TimeoutError):
            return LOST
        return BROKEN if any(began - GRACE_SECONDS <= kill <= ended for kill in self.kills) else LOST

    async def enter(self, kind: str, deed: Awaitable[str]) -> str:
        """Do a deed and enter how it ended."""
        self.sent += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                end = await deed
        except (OSError, httpx.HTTPError, WebSocketException, EOFError, Wrong) as error:
            end = self.judge(began, time.monotonic(), error)
            if end == LOST:
                self.losses.append(f"{kind} after {time.monotonic() - began:.2f} s: {type(error).__name__}: {error}")
        self.ends[end] += 1
        self.kinds[kind, end] += 1
        return end

    @property
    def is_balanced(self) -> bool:
        """Whether every deed has one end."""
        return self.sent == sum(self.ends.values())

    def lines(self) -> list[str]:
        """Return the account in words."""
        ends = ", ".join(f"{name} {self.ends[name]}" for name in (GOOD, REFUSED, LEFT, BROKEN, LOST))
        return [f"sent {self.sent}: {ends}; {len(self.kills)} workers killed", *self.losses[:20]]


def expect_refusal(response: httpx.Response) -> None:
    """Check that a 503 is one that says when to come again."""
    error = response.json()["error"]
    if not error["retryable"] or "retry-after" not in response.headers:
        raise Wrong(f"a refusal without a time: {response.text[:200]}")


@dataclass
class Clients:
    """Everything that clients do to one service.

    Args:
        url: Its address.
        clip: A sound file of which the model says `label` first.
        sound: The same as 16-bit samples.
        sample_rate: Of the samples.
        label: What is heard.
        pace: Seconds that pass for a second of a good stream's sound; 1 is real time, 0 as fast as it is taken.
        seed: Of all chances.
    """

    url: str
    clip: bytes
    sound: bytes
    sample_rate: int
    label: str
    pace: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.http = httpx.AsyncClient(timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_connections=500))
        self.deeds: dict[str, Callable[[], Awaitable[str]]] = {
            "good clip": self.good_clip,
            "bad clip": self.bad_clip,
            "abandoned clip": self.abandoned_clip,
            "good stream": self.good_stream,
            "bad stream": self.bad_stream,
            "abandoned stream": self.abandoned_stream,
            "slow stream": self.slow_stream,
        }

    @property
    def query(self) -> dict[str, object]:
        return {"encoding": "s16le", "sample_rate": self.sample_rate, "threshold": 0}

    async def good_clip(self) -> str:
        """A clip, and its label first."""
        # A connection of its own: a kept one may be closed by the other side just as it is used.
        response = await self.http.post(f"{self.url}/v1/classify", content=self.clip, headers={"Connection": "close"})
        if response.status_code == 503:
            expect_refusal(response)
            return REFUSED
        if response.status_code != 200 or response.json()["tags"][0]["label"] != self.label:
            raise Wrong(f"{response.status_code}: {response.text[:200]}")
        return GOOD

    async def bad_clip(self) -> str:
        """What is no sound, or a parameter out of range: the documented error."""
        path, status = self.chance.choice(
            [("/v1/classify", 415), ("/v1/classify?top_k=0", 400), ("/v1/classify?model=none", 404), ("/v1/nothing", 404)]
        )
        content = self.clip if status == 400 else b"this is no sound at all" * 50
        response = await self.http.post(self.url + path, content=content, headers={"Connection": "close"})
        if response.status_code == 503:
            expect_refusal(response)
            return REFUSED
        if response.status_code != status or "error" not in response.json():
            raise Wrong(f"{path} {response.status_code}: {response.text[:200]}")
        return GOOD

    async def abandoned_clip(self) -> str:
        """An upload that ends in the middle, or whose sender does not wait for the answer."""
        address = urlsplit(self.url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        head = f"POST /v1/classify HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(self.clip)}\r\n\r\n"
        writer.write(head.encode() + self.clip[: self.chance.choice([0, len(self.clip) // 2, len(self.clip)])])
        await writer.drain()
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        writer.transport.abort()
        return LEFT

    async def good_stream(self) -> str:
        """A stream that is ended by `stop`: every window answered or announced as dropped, in order, and a summary."""
        return await self._stream(pace=self.pace)

    async def slow_stream(self) -> str:
        """The same, by a client that reads nothing until it has sent everything."""
        return await self._stream(pace=0.0, reads_late=True)

    async def _stream(self, *, pace: float, reads_late: bool = False) -> str:
        try:
            async with connect(stream_url(self.url, self.query), max_size=None, open_timeout=PATIENCE_SECONDS) as socket:
                messages: list[dict] = []  # type: ignore[type-arg]

                async def read() -> None:
                    async for text in socket:
                        messages.append(json.loads(text))  # noqa: PERF401

                reading = None if reads_late else asyncio.create_task(read())
                with suppress(ConnectionClosed):  # what came before the close says why
                    await self._speak(socket.send, pace)
                with suppress(ConnectionClosed):
                    await (reading or read())
                return self._judge_stream(messages, socket.close_code)
        except InvalidStatus as error:
            if error.response.status_code != 503:
                raise Wrong(f"the upgrade was answered with {error.response.status_code}") from error
            if "Retry-After" not in error.response.headers:
                raise Wrong("a refused upgrade without a time") from error
            return REFUSED

    async def _speak(self, send: Callable[[bytes | str], Awaitable[None]], pace: float) -> None:
        size = 2 * round(self.sample_rate * CHUNK_SECONDS)
        for start in range(0, len(self.sound), size):
            await send(self.sound[start : start + size])
            await asyncio.sleep(pace * CHUNK_SECONDS)
        await send('{"type": "stop"}')

    def _judge_stream(self, messages: list[dict], code: int | None) -> str:  # type: ignore[type-arg]
        fatal = next((message for message in messages if message["type"] == "error" and message["fatal"]), None)
        if fatal is not None and fatal["retryable"] and code in (4503, 1001):
            return REFUSED
        if code in (1006, None, 1005):
            raise ConnectionResetError("the stream ended without a close")
        ends = [message["end"] for message in messages if message["type"] == "tags"]
        if code != 1000 or messages[-1]["type"] != "summary" or ends != sorted(set(ends)):
            raise Wrong(f"closed with {code} after {messages[-2:]}")
        if [message["seq"] for message in messages[1:]] != list(range(1, len(messages))):
            raise Wrong(f"the numbers of the messages are {[message.get('seq') for message in messages]}")
        return GOOD

    async def bad_stream(self) -> str:
        """A configuration that cannot be, text that is no message, or sound before there is a configuration."""
        query, data, code = self.chance.choice(
            [
                ({**self.query, "hop": "99"}, None, 4400),
                ({**self.query, "model": "none"}, None, 4400),
                (self.query, "this is no JSON", 1007),
                ({}, b"\0" * 100, 4400),
            ]
        )
        try:
            async with connect(stream_url(self.url, query), open_timeout=PATIENCE_SECONDS) as socket:
                with suppress(ConnectionClosed):
                    if data is not None:
                        await socket.send(data)
                    async for _ in socket:
                        pass
                if socket.close_code in (1006, None):
                    raise ConnectionResetError("the stream ended without a close")
                if socket.close_code != code:
                    raise Wrong(f"closed with {socket.close_code}, not {code}")
                return GOOD
        except InvalidStatus as error:
            if error.response.status_code != 503:
                raise Wrong(f"the upgrade was answered with {error.response.status_code}") from error
            return REFUSED

    async def abandoned_stream(self) -> str:
        """A stream whose client goes away in the middle, with a close or without."""
        try:
            socket = await connect(stream_url(self.url, self.query), open_timeout=PATIENCE_SECONDS)
        except InvalidStatus as error:
            if error.response.status_code != 503:
                raise Wrong(f"the upgrade was answered with {error.response.status_code}") from error
            return REFUSED
        seconds = self.chance.uniform(0, 3)
        await socket.send(self.sound[: 2 * round(self.sample_rate * seconds)])
        await asyncio.sleep(self.chance.uniform(0, 0.5))
        if self.chance.random() < 0.5:
            await socket.close()
        else:
            socket.transport.abort()
            await socket.wait_closed()
        return LEFT

    async def work(self, account: Account, until: Callable[[], bool]) -> None:
        """Do one deed after the other, by chance, until told to end."""
        kinds = list(self.deeds)
        while not until():
            kind = self.chance.choice(kinds)
            await account.enter(kind, self.deeds[kind]())

    async def close(self) -> None:
        """Close what is kept open."""
        await self.http.aclose()
