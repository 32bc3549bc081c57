"""A network between a client and a server that can be cut and be down."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit


class Wire:
    """Carries connections to a server. Its methods belong to its event loop.

    Args:
        url: The server's address.

    Attributes:
        url: Its own.
        num_connections: How many it has carried.
        is_up: Whether it takes connections; without that they are reset.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: list[asyncio.StreamWriter] = []
        self._carrying: set[asyncio.Task[None]] = set()
        self.num_connections = 0
        self.is_up = True
        self.url = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry a connection to its end."""
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if not self.is_up:
            writer.transport.abort()
            return
        self.num_connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(far_writer)
        if writer.transport.is_closing():  # it was cut meanwhile
            far_writer.transport.abort()
        await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))

    async def close(self) -> None:
        """Reset all connections, for good."""
        self.is_up = False
        self.cut()
        await asyncio.gather(*self._carrying)

    def cut(self) -> None:
        """Reset all connections, without a word to either side."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[Wire]:
    """Run a wire to a server for as long as the context is open."""
    wire = Wire(url)
    server = await asyncio.start_server(wire.accept, "127.0.0.1", 0)
    wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield wire
        await wire.close()


class FarWire:
    """A wire whose event loop runs in another thread.

    Args:
        wire: It.
        loop: That loop.
    """

    def __init__(self, wire: Wire, loop: asyncio.AbstractEventLoop) -> None:
        self._wire = wire
        self._loop = loop
        self.url = wire.url

    def cut(self, *, is_up: bool = True) -> None:
        """Reset all connections, and go down where `is_up` is false."""

        async def do() -> None:
            self._wire.is_up = is_up
            self._wire.cut()

        asyncio.run_coroutine_threadsafe(do(), self._loop).result()

    def mend(self) -> None:
        """Take connections again."""
        self._wire.is_up = True


@contextmanager
def far_wired(url: str) -> Iterator[FarWire]:
    """Run a wire in a thread for as long as the context is open, for tests that have no event loop."""
    ready, over = threading.Event(), asyncio.Event()
    wires: list[FarWire] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        async with wired(url) as wire:
            loops.append(asyncio.get_running_loop())
            wires.append(FarWire(wire, loops[0]))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait()
    try:
        yield wires[0]
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join()
