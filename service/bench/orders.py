"""What a generator process is told, and what it answers; both travel pickled, over its standard input and output."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

CHUNK_SECONDS = 0.1
"""What a microphone's callback or a telephone gateway gives at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Measured seconds on the clock of `time.monotonic`, which all processes of a machine share."""

    start: float
    end: float

    def holds(self, moment: float) -> bool:
        """Whether a moment lies in it."""
        return self.start <= moment < self.end


@dataclass(frozen=True, slots=True)
class StreamsOrder:
    """Open live streams, and feed them at real speed until some time after the interval.

    Attributes:
        url: Of the websocket, with its query.
        sounds: s16le at the rate of the query, a second or more each; played round and round, each stream from another place.
        starts: When each stream is opened.
        interval: What is measured: windows whose last sample is sent in it.
        grace_seconds: How long the streams go on after it, so that what is late can still come.
        is_silent: Send no sound at all: what an open stream costs.
        sample_rate: Of the sounds, Hz.
        hop_seconds: Of the streams.
        api_key: Sent with the upgrade; None where the service asks for none.
        speed: Seconds of sound that a stream sends in a second.
    """

    url: str
    sounds: tuple[bytes, ...]
    starts: tuple[float, ...]
    interval: Interval
    grace_seconds: float
    is_silent: bool
    sample_rate: int
    hop_seconds: float
    api_key: str | None = field(default=None, repr=False)
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class StreamsResult:
    """What became of some streams in the interval.

    Attributes:
        opened: Streams that got `ready`.
        failures: What happened to the others, and to those that ended early; a few words each.
        expected: Windows whose last sample was sent in the interval.
        sent_at: When the last sample of a window was sent, one for each that was answered.
        client_lag: Seconds from then to its result.
        server_lag: What the server said of the same windows.
        dropped_seconds: Sound that the server said it dropped, ever.
        lateness: How late each piece of sound was sent, against its schedule.
        cpu_seconds: Processor time that this process used in the interval.
    """

    opened: int
    failures: tuple[str, ...]
    expected: int
    sent_at: Seconds
    client_lag: Seconds
    server_lag: Seconds
    dropped_seconds: float
    lateness: Seconds
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class ClipsOrder:
    """Send clips one after the other on each of some connections.

    Attributes:
        host: Of the service.
        port: Of the service.
        is_secure: Whether it speaks TLS; its certificate is then checked against the authorities of this machine.
        path: With the query.
        clips: WAV files.
        num_clients: Connections; each waits for an answer before it asks again.
        interval: What is measured: requests answered in it.
        api_key: Sent with each request; None where the service asks for none.
    """

    host: str
    port: int
    is_secure: bool
    path: str
    clips: tuple[bytes, ...]
    num_clients: int
    interval: Interval
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ClipsResult:
    """What became of the clips.

    Attributes:
        latency: Seconds from the first byte sent to the last one received, of each that was answered with 200.
        refused: Answers that were another status, by status.
        cpu_seconds: Processor time that this process used in the interval.
    """

    latency: Seconds
    refused: dict[int, int]
    cpu_seconds: float
