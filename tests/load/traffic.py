"""What clients do, good and bad. For soak and chaos; `tests.load.account` says how a deed can end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.load.account import GOOD, LEFT, PATIENCE_SECONDS, Account, Deed, Refused, Route, Wrong
from tests.load.dialling import dial, open_stream
from tests.load.verdicts import (
    Heard,
    Message,
    join_resumed,
    judge_batch,
    judge_clip,
    judge_lines,
    judge_stream,
    pause_before_resuming,
)

CHUNK_SECONDS = 0.25
NO_SOUND = b"this is no sound at all" * 50
OFTEN = 50
"""How often everything else is done for one reload."""
RELOAD = "reload"
Speech = Callable[[ClientConnection, Message], Awaitable[None]]
"""Says what a client has to say, once it was told something; is given the connection and what that was."""
LINES = {"Accept": "application/x-ndjson"}


def expect_refusal(response: httpx.Response) -> None:
    """Check that a 503 is one that says when to come again.

    Raises:
        Refused: It is.
        Wrong: It is not.
    """
    error = response.json()["error"]
    if not error["retryable"] or "retry-after" not in response.headers:
        raise Wrong(f"a refusal without a time: {response.text[:200]}")
    raise Refused


def pieces(sound: bytes, size: int) -> Iterator[bytes]:
    """Cut sound into pieces of so many bytes."""
    return (sound[start : start + size] for start in range(0, len(sound), size))


@dataclass
class Clients:
    """Everything that clients do to one service.

    Args:
        url: Its address.
        clips: The same sound as files, one of which needs a decoder; the model says `label` first of each window.
        sound: The same as 16-bit samples.
        sample_rate: Of the samples.
        label: What is heard.
        window: The model's, in seconds.
        pace: Seconds that pass for a second of a good stream's sound; 1 is real time, 0 as fast as it is taken.
        seed: Of all chances.
    """

    url: str
    clips: tuple[bytes, ...]
    sound: bytes
    sample_rate: int
    label: str
    window: float
    pace: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.http = httpx.AsyncClient(timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_connections=500))
        self.heard = Heard(len(self.sound) / 2 / self.sample_rate, self.label)
        self._deck: list[str] = []
        self.deeds: dict[str, Deed] = {
            "good clip": self.good_clip,
            "bad clip": self.bad_clip,
            "abandoned clip": self.abandoned_clip,
            "clip in lines": self.clip_in_lines,
            "batch": self.batch,
            "good stream": self.good_stream,
            "bad stream": self.bad_stream,
            "abandoned stream": self.abandoned_stream,
            "slow stream": self.slow_stream,
            "container stream": self.container_stream,
            "resumed stream": self.resumed_stream,
            RELOAD: self.reload,
        }

    @property
    def clip(self) -> bytes:
        """One of the files, by chance."""
        return self.chance.choice(self.clips)

    @property
    def query(self) -> dict[str, object]:
        return {"encoding": "s16le", "sample_rate": self.sample_rate, "threshold": 0}

    # Requests

    async def _post(self, route: Route, path: str, **content: Any) -> httpx.Response:
        async def note_port(event: str, info: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                route.ports.add(info["return_value"].get_extra_info("client_addr")[1])

        # A connection of its own: a kept one may be closed by the other side just as it is used.
        headers = {"Connection": "close", **content.pop("headers", {})}
        response = await self.http.post(self.url + path, headers=headers, extensions={"trace": note_port}, **content)
        if response.status_code == 503:
            expect_refusal(response)
        return response

    async def good_clip(self, route: Route) -> str:
        """A clip, and its label first."""
        return judge_clip(self._take(await self._post(route, "/v1/classify", content=self.clip)).json(), self.heard)

    async def clip_in_lines(self, route: Route) -> str:
        """A clip whose windows are told one by one, and then the whole."""
        path = "/v1/classify?hop=1"
        text = self._take(await self._post(route, path, content=self.clip, headers=LINES)).text
        return judge_lines([json.loads(line) for line in text.splitlines()], self.heard, self.window, hop=1.0)

    async def batch(self, route: Route) -> str:
        """Clips together, one of them broken, which is the others' business in no way."""
        files = [("file", data) for data in (self.clip, NO_SOUND, self.clip)]
        response = self._take(await self._post(route, "/v1/classify/batch", files=files))
        return judge_batch(response.json()["results"], [self.heard, None, self.heard])

    def _take(self, response: httpx.Response) -> httpx.Response:
        if response.status_code != 200:
            raise Wrong(f"{response.status_code}: {response.text[:200]}")
        return response

    async def bad_clip(self, route: Route) -> str:
        """What is no sound, or a parameter out of range: the documented error."""
        path, status = self.chance.choice(
            [("/v1/classify", 415), ("/v1/classify?top_k=0", 400), ("/v1/classify?model=none", 404), ("/v1/nothing", 404)]
        )
        response = await self._post(route, path, content=self.clip if status == 400 else NO_SOUND)
        if response.status_code != status or "error" not in response.json():
            raise Wrong(f"{path} {response.status_code}: {response.text[:200]}")
        return GOOD

    async def abandoned_clip(self, route: Route) -> str:
        """An upload that ends in the middle, or whose sender does not wait for the answer."""
        sock = await dial(self.url)
        route.ports.add(sock.getsockname()[1])
        _, writer = await asyncio.open_connection(sock=sock)
        host = self.url.partition("//")[2]
        clip = self.clip
        head = f"POST /v1/classify HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(clip)}\r\n\r\n"
        writer.write(head.encode() + clip[: self.chance.choice([0, len(clip) // 2, len(clip)])])
        await writer.drain()
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        writer.transport.abort()
        return LEFT

    async def reload(self, route: Route) -> str:
        """The models anew: they are, or the reason is told why they stay as they are."""
        response = await self._post(route, "/v1/models/reload")
        if response.status_code == 409 and response.json()["error"]["code"] == "reload_failed":
            raise Refused
        if not self._take(response).json()["models"]:
            raise Wrong(f"no model is served: {response.text}")
        return GOOD

    # Streams

    @asynccontextmanager
    async def _open(self, route: Route, query: Mapping[str, object]) -> AsyncIterator[ClientConnection]:
        sock = await dial(self.url)
        route.ports.add(sock.getsockname()[1])
        async with open_stream(self.url, query, sock, max_size=None) as stream:
            yield stream

    async def _converse(
        self,
        route: Route,
        query: Mapping[str, object],
        speak: Speech,
        *,
        reads_late: bool = False,
    ) -> tuple[list[Message], int | None]:
        """Open a stream, speak once there is its first message, which `speak` is given, and return all that was told, and the
        code of the close."""
        messages: list[Message] = []

        async def read(stream: ClientConnection) -> None:
            with suppress(ConnectionClosed):
                async for text in stream:
                    messages.append(json.loads(text))  # noqa: PERF401

        async with self._open(route, query) as stream:
            with suppress(ConnectionClosed):  # what came before the close says why
                messages.append(json.loads(await stream.recv()))
                if token := messages[0].get("resume_token"):
                    route.workers.add(int(token.partition(".")[0]))
                reading = None if reads_late else asyncio.create_task(read(stream))
                try:
                    await speak(stream, messages[0])
                finally:
                    await (reading or read(stream))
            return messages, stream.close_code

    def _speaking(self, sound: bytes, piece_bytes: int, piece_seconds: float = 0.0) -> Speech:
        """Return what sends sound in pieces, with a pause after each, and stops."""

        async def speak(stream: ClientConnection, _: Message) -> None:
            for piece in pieces(sound, piece_bytes):
                await stream.send(piece)
                await asyncio.sleep(piece_seconds)
            await stream.send('{"type": "stop"}')

        return speak

    @property
    def _chunk_bytes(self) -> int:
        return 2 * round(self.sample_rate * CHUNK_SECONDS)

    async def good_stream(self, route: Route) -> str:
        """A stream that is ended by `stop`: every window answered or announced as dropped, in order, and a summary."""
        return await self._live_stream(route, self.query)

    async def healthy_stream(self, route: Route) -> str:
        """The same, and it counts as refused if a single window is dropped."""
        return await self._live_stream(route, {**self.query, "on_lag": "error"})

    async def _live_stream(self, route: Route, query: Mapping[str, object]) -> str:
        speak = self._speaking(self.sound, self._chunk_bytes, self.pace * CHUNK_SECONDS)
        return judge_stream(*await self._converse(route, query, speak), self.heard)

    async def slow_stream(self, route: Route) -> str:
        """A good stream of a client that, once it may speak, reads nothing until it has said everything."""
        speak = self._speaking(self.sound, self._chunk_bytes)
        return judge_stream(*await self._converse(route, self.query, speak, reads_late=True), self.heard)

    async def container_stream(self, route: Route) -> str:
        """A sound file as it is, piece by piece."""
        speak = self._speaking(self.clip, self.chance.randrange(1_000, 20_000))
        return judge_stream(*await self._converse(route, {"encoding": "auto", "threshold": 0}, speak), self.heard)

    async def resumed_stream(self, route: Route) -> str:
        """A stream whose connection breaks in the middle, and that goes on over another one as if nothing had been."""
        place = self._chunk_bytes * self.chance.randrange(1, len(self.sound) // self._chunk_bytes)

        async def break_off(stream: ClientConnection, _: Message) -> None:
            for piece in pieces(self.sound[:place], self._chunk_bytes):
                await stream.send(piece)
                await asyncio.sleep(self.pace * CHUNK_SECONDS)
            stream.transport.abort()

        async def go_on(stream: ClientConnection, ready: Message) -> None:
            if ready["type"] == "ready" and ready.get("resumed_at") is not None:
                start = 2 * round(ready["resumed_at"] * self.sample_rate)
                await self._speaking(self.sound[start:], self._chunk_bytes)(stream, ready)
            elif not ready.get("fatal"):
                await stream.close()

        first, code = await self._converse(route, self.query, break_off)
        if code != 1006 or not first or first[0]["type"] != "ready":
            return judge_stream(first, code, self.heard)
        where = {"resume_token": first[0]["resume_token"], "last_seq": max(message.get("seq") or 0 for message in first)}
        while True:  # whoever may have the stream can be too busy to answer, or be gone without anybody knowing yet
            second, code = await self._converse(route, {**self.query, **where}, go_on)
            if (pause := pause_before_resuming(second)) is None:
                return judge_stream(join_resumed(first, second), code, self.heard)
            await asyncio.sleep(pause)

    async def bad_stream(self, route: Route) -> str:
        """A configuration that cannot be, text that is no message, or sound before there is a configuration."""
        query, data, code = self.chance.choice(
            [
                ({**self.query, "hop": "99"}, None, 4400),
                ({**self.query, "model": "none"}, None, 4400),
                (self.query, "this is no JSON", 1007),
                ({}, b"\0" * 100, 4400),
            ]
        )
        async with self._open(route, query) as stream:
            with suppress(ConnectionClosed):
                if data is not None:
                    await stream.send(data)
                async for _ in stream:
                    pass
            if stream.close_code in (1006, None):
                raise ConnectionResetError("the stream ended without a close")
            if stream.close_code != code:
                raise Wrong(f"closed with {stream.close_code}, not {code}")
            return GOOD

    async def abandoned_stream(self, route: Route) -> str:
        """A stream whose client goes away in the middle, with a close or without."""
        async with self._open(route, self.query) as stream:
            await stream.send(self.sound[: 2 * round(self.sample_rate * self.chance.uniform(0, 3))])
            await asyncio.sleep(self.chance.uniform(0, 0.5))
            if self.chance.random() < 0.5:
                stream.transport.abort()
                await stream.wait_closed()
            return LEFT

    # All of it

    def draw(self) -> str:
        """Return what to do next, by chance: all of it equally often, and a reload once in a while."""
        if not self._deck:
            self._deck = [kind for kind in self.deeds for _ in range(1 if kind == RELOAD else OFTEN)]
            self.chance.shuffle(self._deck)
        return self._deck.pop()

    async def work(self, account: Account, until: Callable[[], bool]) -> None:
        """Do one deed after the other until told to end."""
        while not until():
            kind = self.draw()
            await account.enter(kind, self.deeds[kind])

    async def close(self) -> None:
        """Close what is kept open."""
        await self.http.aclose()
