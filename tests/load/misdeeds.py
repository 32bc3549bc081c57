"""What bad clients do, each in a process of its own: `python -m tests.load.misdeeds NAME URL SECONDS`.

It says `ready`, begins when it reads a line, and says at the end in JSON what it did: how often it was closed and with which
code (`closed 4429`), how often it was `refused`, and what proves that it did its work. Who is closed comes again,
`RETURN_SECONDS` later: floods of connections are the business of what stands in front.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import httpx
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from tests.load.account import Refused
from tests.load.dialling import LEAST_BYTES, dial, open_stream
from tests.load.soak import speech_clients
from tests.load.traffic import Clients, pieces
from tests.support.websocket import stream_url

RETURN_SECONDS = 0.2
HELD, UNREAD, ANSWERED = "seconds in which nothing more was taken", "bytes not read", "clips answered"
FLOODED = "closed 4429"
HELD_BYTES = 256 * 1024
"""Far more than both kernels and the connection keep (some 40 and 64 KiB): the rest waits in the service, or that waits."""
CLIPS_AT_ONCE = 16
BLOCK_FRAMES = 5_000
Done = Counter[str]
Counts = Mapping[str, float]


async def send_as_fast_as_taken(clients: Clients, done: Done) -> None:
    """A file through the live protocol, hours of it, with every window wanted."""
    sock = await dial(clients.url)
    async with open_stream(clients.url, {**clients.query, "on_lag": "wait"}, sock, ping_interval=None) as stream:
        reading = asyncio.create_task(_drop_messages(stream))
        try:
            while True:
                for piece in pieces(clients.sound, 2 * clients.sample_rate):
                    await _hold(stream.send(piece), done)
        finally:
            reading.cancel()
            stream.transport.abort()


async def never_read(clients: Clients, done: Done) -> None:
    """Much to say, and nothing of it is read."""
    await _provoke(clients, done, read_every=None)


async def read_slowly(clients: Clients, done: Done) -> None:
    """The same, and one message in two seconds is read."""
    await _provoke(clients, done, read_every=2.0)


async def _provoke(clients: Clients, done: Done, read_every: float | None) -> None:
    """Live sound of which every label is wanted, and changes in between: the answers are long."""
    labels = [item["label"] for item in (await clients.http.get(f"{clients.url}/v1/labels")).json()["labels"]]
    sock = await dial(clients.url, receive_bytes=LEAST_BYTES)
    options = {"ping_interval": None, "max_queue": 1, "max_size": None}
    async with open_stream(clients.url, {**clients.query, "top_k": 1000}, sock, **options) as stream:
        unanswered = size = 0

        async def read() -> None:
            nonlocal unanswered, size
            text = await stream.recv()
            if json.loads(text)["type"] == "configuration":
                unanswered, size = unanswered - 1, len(text)

        async def ask(update: dict[str, object]) -> None:
            nonlocal unanswered
            unanswered += 1
            await stream.send(json.dumps({"type": "update", **update}))

        await ask({"labels": labels})
        while not size:
            await read()
        try:
            read_at = time.monotonic()
            while True:
                for piece in pieces(clients.sound, 2 * clients.sample_rate // 10):
                    await stream.send(piece)
                    await ask({"top_k": 1000})  # ten a second are allowed
                    if read_every is not None and time.monotonic() >= read_at:
                        await read()
                        read_at += read_every
                    await asyncio.sleep(0.1)
        finally:
            done[UNREAD] = max(done[UNREAD], unanswered * size)
            stream.transport.abort()


async def post_many_clips(clients: Clients, done: Done) -> None:
    """Many clips at a time, one after the other."""

    async def post() -> None:
        while True:
            try:
                response = await clients.http.post(f"{clients.url}/v1/classify", content=clients.clip)
            except httpx.HTTPError as error:
                done[type(error).__name__] += 1
                continue
            done[ANSWERED if response.status_code == 200 else f"status {response.status_code}"] += 1

    await asyncio.gather(*(post() for _ in range(CLIPS_AT_ONCE)))


async def send_pings(clients: Clients, done: Done) -> None:
    """Pings, and nothing else."""
    await _flood(clients, done, [Frame(Opcode.PING, b"")] * BLOCK_FRAMES)


async def send_tiny_frames(clients: Clients, done: Done) -> None:
    """Sound, sample by sample."""
    await _flood(clients, done, [Frame(Opcode.BINARY, piece) for piece in pieces(clients.sound[: 2 * BLOCK_FRAMES], 2)])


async def send_updates(clients: Clients, done: Done) -> None:
    """Changes of mind."""
    await _flood(clients, done, [Frame(Opcode.TEXT, b'{"type": "update", "top_k": 1}')] * BLOCK_FRAMES)


async def _flood(clients: Clients, done: Done, frames: list[Frame]) -> None:
    """Send the same frames again and again, made once, so that they cost their sender next to nothing; drop the answers."""
    block = b"".join(frame.serialize(mask=True) for frame in frames)
    protocol = ClientProtocol(parse_uri(stream_url(clients.url, {**clients.query, "on_lag": "wait"})))
    protocol.send_request(protocol.connect())
    reader, writer = await asyncio.open_connection(sock=await dial(clients.url))
    try:
        writer.write(b"".join(protocol.data_to_send()))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise Refused
        reading = asyncio.create_task(_read_close(reader))
        try:
            while not reading.done():
                writer.write(block)
                await _hold(writer.drain(), done)
        except ConnectionError:
            pass  # what was said before says why
        except asyncio.CancelledError:
            reading.cancel()
            raise
        done[f"closed {await reading}"] += 1
    finally:
        writer.transport.abort()


async def _read_close(reader: asyncio.StreamReader) -> int | None:
    """Drop what comes, and return the code of the close that it ends with."""
    tail = b""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            tail = (tail + data)[-127:]
            if (code := find_close(tail)) is not None:
                return code
    return None


def find_close(data: bytes) -> int | None:
    """Return the code of the close frame that a server's bytes end with, None where they end with something else."""
    for start in range(len(data) - 3):
        if data[start] == 0x88 and start + 2 + data[start + 1] == len(data):
            return int.from_bytes(data[start + 2 : start + 4], "big")
    return None


async def _hold(sending: Awaitable[None], done: Done) -> None:
    """Send, and count for how long the other side would not take it."""
    began = time.monotonic()
    try:
        await sending
    finally:
        done[HELD] += time.monotonic() - began  # type: ignore[assignment]


async def _drop_messages(stream: object) -> None:
    with suppress(ConnectionClosed):
        async for _ in stream:  # type: ignore[attr-defined]
            pass


@dataclass(frozen=True)
class Misdeed:
    """Something that a client does who is bad for others.

    Attributes:
        do: Does it until cancelled, or until it is closed.
        proofs: What shows that it did its work, and how much of it: one of them is enough.
    """

    do: Callable[[Clients, Done], Awaitable[None]]
    proofs: Mapping[str, float]

    def find_fault(self, done: Counts) -> str | None:
        """Return what is wrong: it was measured as if it had done its work, and had not."""
        if any(done.get(name, 0) >= least for name, least in self.proofs.items()):
            return None
        return f"it did not do its work, {dict(self.proofs)}: {dict(done)}"


MISDEEDS: dict[str, Misdeed] = {
    "a stream as fast as it is taken": Misdeed(send_as_fast_as_taken, {HELD: 2}),
    "a stream that never reads": Misdeed(never_read, {UNREAD: HELD_BYTES}),
    "a stream that reads slowly": Misdeed(read_slowly, {UNREAD: HELD_BYTES}),
    "sixteen clips at a time": Misdeed(post_many_clips, {ANSWERED: CLIPS_AT_ONCE}),
    "a flood of pings": Misdeed(send_pings, {HELD: 2, FLOODED: 1}),
    "a flood of tiny frames": Misdeed(send_tiny_frames, {HELD: 2, FLOODED: 1}),
    "a flood of updates": Misdeed(send_updates, {FLOODED: 1}),
}


async def repeat(misdeed: Misdeed, clients: Clients, seconds: float) -> Done:
    """Do it, and come again when closed or refused, for so many seconds; return what was done."""
    done: Done = Counter()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await misdeed.do(clients, done)
                except Refused:
                    done["refused"] += 1
                except ConnectionClosed as error:
                    done[f"closed {error.rcvd.code if error.rcvd else None}"] += 1
                except (OSError, EOFError, httpx.HTTPError) as error:
                    done[type(error).__name__] += 1
                await asyncio.sleep(RETURN_SECONDS)
    return done


async def main() -> None:
    """Do what the command line says."""
    name, url, seconds = sys.argv[1:]
    clients = speech_clients(url)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(await repeat(MISDEEDS[name], clients, float(seconds))), flush=True)
    await clients.close()


if __name__ == "__main__":
    asyncio.run(main())
