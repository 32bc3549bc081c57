"""A websocket client for tests: streams sound, keeps every message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

TIMEOUT_SECONDS = 60


@dataclass
class Told:
    """What a stream was told."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    code: int | None = None
    reason: str | None = None

    def of_type(self, *types: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] in types]

    @property
    def tags(self) -> list[dict[str, Any]]:
        return self.of_type("tags")

    @property
    def events(self) -> list[tuple[str, float, float]]:
        """The events that were not retracted, as label, onset and offset."""
        return [
            (m["label"], m["onset"], m["offset"])
            for m in self.of_type("event")
            if m["phase"] == "offset" and not m.get("retracted")
        ]


def stream_url(url: str, query: Mapping[str, object] | None = None) -> str:
    """Return the address of a stream on a server at this HTTP address."""
    return f"{url.replace('http', 'ws', 1)}/v1/stream?{urlencode(query or {}, doseq=True)}"


class Listener:
    """An open stream whose messages are read all the time."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.told = Told()
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                assert isinstance(text, str)
                self.told.messages.append(json.loads(text))
                self._changed.set()
        except ConnectionClosed:
            pass
        self.told.code, self.told.reason = self.socket.close_code, self.socket.close_reason
        self._changed.set()

    async def send(self, message: Mapping[str, object] | bytes) -> None:
        await self.socket.send(message if isinstance(message, bytes) else json.dumps(message))

    async def until(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for the count-th message of a type and return it."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while len(found := self.told.of_type(kind)) < count:
                if self._reading.done():
                    raise AssertionError(f"the stream ended with {self.told.code} before {kind}: {self.told.messages[-3:]}")
                self._changed.clear()
                await self._changed.wait()
        return found[count - 1]

    async def first(self) -> dict[str, Any]:
        """Wait for the first message, whatever it is, and return it."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not self.told.messages:
                if self._reading.done():
                    raise AssertionError(f"the stream ended with {self.told.code} before any message")
                self._changed.clear()
                await self._changed.wait()
        return self.told.messages[0]

    async def closed(self) -> Told:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self._reading
        return self.told


class Stream:
    """`async with Stream(url, query) as listener`."""

    def __init__(self, url: str, query: Mapping[str, object] | None = None, **options: Any) -> None:
        self._connecting = connect(stream_url(url, query), max_size=None, **options)

    async def __aenter__(self) -> Listener:
        self._socket = await self._connecting.__aenter__()
        return Listener(self._socket)

    async def __aexit__(self, *error: Any) -> None:
        await self._connecting.__aexit__(*error)


async def stream_pieces(url: str, query: Mapping[str, object], pieces: Iterable[bytes]) -> Told:
    """Stream pieces as fast as they are taken, stop, and return what was told."""
    async with Stream(url, query) as listener:
        try:
            for piece in pieces:
                await listener.send(piece)
            await listener.send({"type": "stop"})
        except ConnectionClosed:
            pass
        return await listener.closed()


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
