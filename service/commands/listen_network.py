"""Sound from an address, for `sonotag listen`: Icecast, HLS and other HTTP, RTSP. Audio only, through FFmpeg.

What has a length, in bytes or in seconds, is a file: it is played as one that lies here, and ends. All else is live.
A connection that breaks is made again, at once, then after pauses that double. What came meanwhile was not heard: it is said
how long that was, and the stream's time goes on without it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from service.audio.formats import RawFormat
from service.commands.addresses import without_secrets
from service.commands.av_connection import AvConnection
from service.commands.listen_sources import Source, SourceLost, play, raw_query, receive
from service.engine import Engine
from service.errors import ServiceError

FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 30.0
DEFAULT_GIVE_UP_SECONDS = 60.0
END_SECONDS = 2.0
"""How far before the length that its head states a file may end: such lengths are estimates."""


class Connection(Protocol):
    """Sound that comes.

    Attributes:
        sample_rate: Hz.
        duration_seconds: How long it says it is; None for what has no end, or does not say.
        has_length: Whether the server says how many bytes there are: where they end without an error, all have come.
    """

    sample_rate: int
    duration_seconds: float | None
    has_length: bool

    def read(self) -> bytes:
        """Return the next samples, f32le, mono; empty at the end.

        Raises:
            OSError: It broke.
        """
        ...

    def close(self) -> None:
        """Hang up."""
        ...


def is_file(connection: Connection) -> bool:
    """Return whether what comes has an end."""
    return connection.has_length or connection.duration_seconds is not None


@asynccontextmanager
async def open_network(
    engine: Engine, url: str, channel: int | None, pace: float, give_up_seconds: float, report: Callable[[str], None]
) -> AsyncIterator[Source]:
    """Connect to an address and take what comes.

    Args:
        engine: A pool and a clock.
        url: The address.
        channel: The channel to take; None for the mean of all.
        pace: How many times real speed a file is played; 0 for as fast as it comes.
        give_up_seconds: How long a broken connection is tried again; 0 for not at all.
        report: Is told, in a thread, what was lost.

    Raises:
        SourceLost: There is nothing.
        UnsupportedAudio: There is no sound in it.
        InvalidParameter: There is no such channel.
    """

    def connect(sample_rate: int | None) -> Connection:
        return AvConnection(url, channel, sample_rate)

    try:
        first = await engine.run(lambda: connect(None))
    except OSError as error:
        raise SourceLost(f"{without_secrets(url)}: {error}") from error
    waits = Patience(give_up_seconds, engine.clock, time.sleep)
    reader = NetworkReader(without_secrets(url), first, connect, waits, report)
    is_live = not is_file(first)
    raw = RawFormat("f32le", first.sample_rate, 1)
    async with aclosing(receive(reader.read)) as came:
        frames = came if is_live else play(engine, came, raw.frame_bytes * raw.sample_rate, pace)
        async with aclosing(frames):
            yield Source(raw_query(raw, None), frames, is_live=is_live)


@dataclass(frozen=True, slots=True)
class Patience:
    """How a broken connection is waited for.

    Attributes:
        give_up_seconds: How long in all.
        clock: Seconds, rising.
        sleep: Blocks for so many seconds.
    """

    give_up_seconds: float
    clock: Callable[[], float]
    sleep: Callable[[float], None]


class NetworkReader:
    """Reads from a connection, and from another one when it breaks. One thread uses it.

    Args:
        name: What is said of it.
        connection: The first one.
        connect: Makes another one, of that sample rate; raises OSError or ServiceError where it cannot.
        patience: How long that is tried.
        report: Is told what happens.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        connect: Callable[[int | None], Connection],
        patience: Patience,
        report: Callable[[str], None],
    ) -> None:
        self._name = name
        self._connection = connection
        self._connect = connect
        self._patience = patience
        self._report = report
        self._sample_rate = connection.sample_rate
        self._num_bytes = 0

    @property
    def seconds(self) -> float:
        """How much sound came so far."""
        return self._num_bytes / 4 / self._sample_rate

    def read(self) -> bytes:
        """Return the next samples; empty at the end.

        Raises:
            SourceLost: Nothing came for too long, or a file broke off.
        """
        reason: str | None = None
        try:
            data = self._connection.read()
        except OSError as error:
            data, reason = b"", str(error)
        if not data:
            self._connection.close()
            if is_file(self._connection):
                self._check_whole(reason)
                return b""
            data = self._reconnect(reason or "it ended")
        self._num_bytes += len(data)
        return data

    def _check_whole(self, reason: str | None) -> None:
        """Raise unless a file has come to its end."""
        duration = self._connection.duration_seconds
        if reason is None and self._connection.has_length:
            return
        if duration is not None and self.seconds >= duration - END_SECONDS:
            return
        of = "" if duration is None else f" of {duration:.2f} s"
        raise SourceLost(f"{self._name} broke off at {self.seconds:.2f} s{of}: {reason or 'it ended'}")

    def _reconnect(self, reason: str) -> bytes:
        """Return the first samples of another connection."""
        patience = self._patience
        lost_at = patience.clock()
        self._report(f"{self._name}: lost at {self.seconds:.2f} s: {reason}")
        pause = 0.0
        while patience.clock() - lost_at + pause < patience.give_up_seconds:
            patience.sleep(pause)
            try:
                connection = self._connect(self._sample_rate)
                data = connection.read()
            except (OSError, ServiceError) as error:
                reason = str(error)
            else:
                if is_file(connection):
                    connection.close()  # a live playlist that is complete now: what it had was heard
                    self._report(f"{self._name}: it is over")
                    return b""
                if data:
                    self._connection = connection
                    self._report(f"{self._name}: back, {patience.clock() - lost_at:.1f} s were not heard")
                    return data
                connection.close()
            pause = min(MAX_PAUSE_SECONDS, 2 * pause or FIRST_PAUSE_SECONDS)
        raise SourceLost(f"{self._name} did not come back in {patience.give_up_seconds:g} s: {reason}")
