"""What a decoder process does: it decodes files that it is handed, one after the other, or one stream.

It starts as a copy of `service.decoders.nursery`'s process, with every library loaded, and is confined before its first job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.audio.containers import ContainerDecoder, to_border
from service.audio.decoding import open_audio
from service.audio.intake import file_samples
from service.decoders.wire import BLOCK_HEADER, MAX_MESSAGE_CHARS, Failed, FileJob, Kind, Opened, StreamJob, Wire, WireError
from service.errors import DecodingFailed, ServiceError
from service.observer import Stage

Float32Array = npt.NDArray[np.float32]


def run_decoder(wire: Wire) -> None:
    """Do jobs until the service closes the wire, or one stream. It returns when there is no more to do.

    Raises:
        OSError, EOFError, WireError: The service is gone, or not what it should be.
    """
    while True:
        try:
            kind, payload, fd = wire.receive_job()
        except EOFError:
            return
        if kind is Kind.FILE and fd is not None:
            _decode_file(wire, FileJob.model_validate_json(payload), fd)
        elif kind is Kind.STREAM:
            _decode_stream(wire, StreamJob.model_validate_json(payload))
            return
        else:
            raise WireError(f"{kind.name} is no job")


def _decode_file(wire: Wire, job: FileJob, fd: int) -> None:
    seconds: dict[Stage, float] = {}

    def observe(stage: Stage, duration: float) -> None:
        seconds[stage] = duration

    with open(fd, "rb") as file, _telling(wire), open_audio(file, channel=job.channel) as audio:
        opened = Opened(
            container=audio.container,
            sample_rate=audio.sample_rate,
            channels=audio.channels,
            num_frames=audio.num_frames,
        )
        wire.post(Kind.OPENED, opened.model_dump_json().encode())
        for block in file_samples(audio, job.target_rate, observe, time.perf_counter):
            head = BLOCK_HEADER.pack(seconds.get("decode", 0.0), seconds.get("resample", 0.0), file.tell())
            wire.post(Kind.BLOCK, head, block.tobytes())


def _decode_stream(wire: Wire, job: StreamJob) -> None:
    source = _StreamSource(wire)
    with _telling(wire):
        decoder = ContainerDecoder(source, job.container, channel=job.channel)
        try:
            opened = Opened(container=job.container, sample_rate=decoder.sample_rate, channels=decoder.channels)
            wire.send(Kind.OPENED, opened.model_dump_json().encode())
            _Outlet(source, decoder.sample_rate).send_all(decoder.blocks())
        finally:
            decoder.close()


class _StreamSource:
    """What FFmpeg reads a stream from: whole reads between the same borders as those of the file (see `READ_BYTES`).

    Attributes:
        before_waiting: Called before bytes are asked for, so that no sound is held back while they do not come.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.before_waiting: Callable[[], None] | None = None
        self._bytes = bytearray()
        self._position = 0
        self._is_ended = False

    def read(self, size: int, /) -> bytes:
        wanted = to_border(size, self._position)
        while len(self._bytes) < wanted and not self._is_ended:
            if self.before_waiting is not None:
                self.before_waiting()
            self.wire.send(Kind.WANTED)
            kind, payload = self.wire.receive()
            self._bytes += payload
            self._is_ended = kind is not Kind.DATA
        data = bytes(self._bytes[:wanted])
        del self._bytes[:wanted]
        self._position += len(data)
        return data


class _Outlet:
    """Posts a stream's sound: what there is when bytes run out, else a second at once. FFmpeg's own frames are tiny."""

    def __init__(self, source: _StreamSource, sample_rate: int) -> None:
        self._wire = source.wire
        self._sample_rate = sample_rate
        self._blocks: list[Float32Array] = []
        self._num_samples = 0
        source.before_waiting = self._flush

    def send_all(self, blocks: Iterator[Float32Array]) -> None:
        for block in blocks:
            if self._num_samples + len(block) > self._sample_rate:
                self._flush()
            self._blocks.append(block)
            self._num_samples += len(block)
        self._flush()

    def _flush(self) -> None:
        blocks, self._blocks, self._num_samples = self._blocks, [], 0
        if blocks:
            self._wire.post(Kind.BLOCK, np.concatenate(blocks).tobytes())


@contextmanager
def _telling(wire: Wire) -> Iterator[None]:
    """Say how what is inside ended."""
    try:
        yield
    except (MemoryError, DecodingFailed):  # Python's, or FFmpeg's: the service says what the limit is
        failed = Failed(code="memory", message="")
    except ServiceError as error:
        failed = Failed(code=error.code, message=error.message[:MAX_MESSAGE_CHARS], param=_param(error))
    except (OSError, EOFError, WireError):
        raise  # the service has gone: nobody is left to be told
    except Exception as error:  # noqa: BLE001  whatever it is, it ends this job and is told
        failed = Failed(code="bug", message=f"{type(error).__name__}: {error}"[:MAX_MESSAGE_CHARS])
    else:
        wire.send(Kind.DONE)
        return
    wire.send(Kind.FAILED, failed.model_dump_json().encode())


def _param(error: ServiceError) -> Literal["channel"] | None:
    return "channel" if error.param == "channel" else None
