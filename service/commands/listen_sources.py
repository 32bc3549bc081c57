"""Where `sonotag listen` takes its sound from: a file at its own speed, or bytes as they come through a pipe."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.audio.decoding import AudioFile, open_audio
from service.audio.formats import RawFormat
from service.engine import Engine
from service.errors import ServiceError

PIECE_SECONDS = 0.1
"""What a live sender puts into a frame; results come no later for it."""
PIPE_BYTES = 64 * 1024
"""What a pipe holds on Linux: a read takes what is there and waits for no more."""
MAX_WAITING_READS = 4


class SourceLost(ServiceError):
    """The sound came over a network or from a device, and comes no more."""

    code = "source_lost"


@dataclass(frozen=True, slots=True)
class Source:
    """Sound to listen to.

    Attributes:
        query: How its bytes are to be read, as names and values of a stream's query string.
        frames: The bytes, as they come.
        is_live: Whether they come when they come; else they are there already, and are played.
    """

    query: list[tuple[str, str]]
    frames: AsyncIterator[bytes]
    is_live: bool


def raw_query(raw: RawFormat, channel: int | None) -> list[tuple[str, str]]:
    """Return the query of a raw stream."""
    items = [("encoding", raw.encoding), ("sample_rate", str(raw.sample_rate)), ("channels", str(raw.channels))]
    return items + ([] if channel is None else [("channel", str(channel))])


@asynccontextmanager
async def open_file(
    engine: Engine, path: Path, raw: RawFormat | None, channel: int | None, pace: float
) -> AsyncIterator[Source]:
    """Open a file to be played.

    What is a container is decoded here and streamed as raw samples, which the model gets as it would get the file's: so any
    file can be listened to, also one that as a stream of bytes tells too late how to read it.

    Args:
        engine: A pool and a clock.
        path: The file.
        raw: What its samples are; None for a container.
        channel: The channel to take; None for the mean of all.
        pace: How many times real speed; 0 for as fast as it is read.

    Raises:
        OSError: It cannot be read.
        ServiceError: It is no sound that can be read; later ones come from the frames.
    """
    async with AsyncExitStack() as stack:
        file = stack.enter_context(await engine.run(lambda: path.open("rb")))
        if raw is not None:
            query, pieces = raw_query(raw, channel), _raw_pieces(file, raw)
        else:
            audio = stack.enter_context(await engine.run(lambda: open_audio(file, channel=channel)))
            raw = RawFormat("f32le", audio.sample_rate, 1)
            query, pieces = raw_query(raw, None), _decoded_pieces(audio)
        frames = play(engine, _take(engine, pieces), raw.frame_bytes * raw.sample_rate, pace)
        stack.push_async_callback(frames.aclose)
        yield Source(query, frames, is_live=False)


@asynccontextmanager
async def open_pipe(descriptor: int, raw: RawFormat | None, channel: int | None) -> AsyncIterator[Source]:
    """Take what comes through a pipe, as it comes.

    A thread waits for it, for not every kind of standard input can be waited for without one, and reads no further ahead
    than a few pieces. It ends with the pipe or the process, whichever is first.

    Args:
        descriptor: Open for reading.
        raw: What its samples are; None for a container, whose first bytes tell.
        channel: The channel to take; None for the mean of all.
    """
    chosen = [] if channel is None else [("channel", str(channel))]
    query = raw_query(raw, channel) if raw else [("encoding", "auto"), *chosen]
    frames = receive(lambda: os.read(descriptor, PIPE_BYTES))
    try:
        yield Source(query, frames, is_live=True)
    finally:
        await frames.aclose()


def _raw_pieces(file: BinaryIO, raw: RawFormat) -> Iterator[bytes]:
    size = max(1, round(raw.sample_rate * PIECE_SECONDS)) * raw.frame_bytes
    while piece := file.read(size):
        yield piece


def _decoded_pieces(audio: AudioFile) -> Iterator[bytes]:
    size = max(1, round(audio.sample_rate * PIECE_SECONDS))
    for block in audio.blocks():
        for start in range(0, len(block), size):
            yield block[start : start + size].astype("<f4").tobytes()


async def _take(engine: Engine, pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    while (piece := await engine.run(lambda: next(pieces, None))) is not None:
        yield piece


async def play(engine: Engine, pieces: AsyncIterator[bytes], bytes_per_second: int, pace: float) -> AsyncGenerator[bytes, None]:
    """Yield pieces when they would be there if they came live.

    Args:
        engine: A clock.
        pieces: They are there already.
        bytes_per_second: Of sound.
        pace: How many times real speed; 0 for at once.
    """
    started = engine.clock()
    num_bytes = 0
    async for piece in pieces:
        num_bytes += len(piece)
        if pace:
            # A microphone has a piece when its last sample is there, not before.
            await asyncio.sleep(max(0.0, started + num_bytes / bytes_per_second / pace - engine.clock()))
        yield piece


async def receive(read: Callable[[], bytes]) -> AsyncGenerator[bytes, None]:
    """Yield what a function that blocks returns, until that is empty. A thread calls it, and no further ahead than a few times.

    The thread ends with the function's end or with the process, whichever is first.

    Raises:
        OSError: As the function does.
        ServiceError: As the function does.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[bytes | OSError | ServiceError] = asyncio.Queue()
    places = threading.Semaphore(MAX_WAITING_READS)

    def keep_reading() -> None:
        data: bytes | OSError | ServiceError = b""
        while isinstance(data, bytes):
            places.acquire()
            try:
                data = read()
            except (OSError, ServiceError) as error:
                data = error
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(arrived.put_nowait, data)
            if not data:
                return

    threading.Thread(target=keep_reading, name="reader", daemon=True).start()
    while data := await arrived.get():
        places.release()
        if not isinstance(data, bytes):
            raise data
        yield data
