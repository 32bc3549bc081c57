"""One file or stream in a decoder process, seen from the service: what comes is checked, what does not come is an error."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import pydantic

from service.audio.formats import MAX_SAMPLE_RATE
from service.audio.stopwatch import Observe
from service.decoders.nursery import DecoderProcess
from service.decoders.wire import BLOCK_HEADER, DATA_BYTES, Failed, FileJob, Kind, Opened, StreamJob, WireError
from service.errors import (
    DecodingFailed,
    InvalidParameter,
    ServiceError,
    UndecodableAudio,
    UnsupportedAudio,
)
from service.logs import log_event
from service.observer import DecoderFailure

logger = logging.getLogger(__name__)

Float32Array = npt.NDArray[np.float32]
Int16Array = npt.NDArray[np.int16]
OnFailure = Callable[[DecoderFailure], None]

_M = TypeVar("_M", bound=pydantic.BaseModel)

CPU_SHARE = 0.25
"""CPU seconds that a decoder may use for each second of sound that it gave, beyond what it has for a start: measured are
0.002 (MP3, 44.1 kHz stereo) to 0.05 (32 channels at 192 kHz)."""
_RENEWAL_SECONDS = 5.0
"""The kernel counts whole seconds, and asking it costs a call: not for every block."""

_ERRORS: dict[str, type[ServiceError]] = {
    error.code: error for error in (InvalidParameter, UndecodableAudio, UnsupportedAudio, DecodingFailed)
}


class Job:
    """A decoder at work.

    Args:
        process: Idle; it is this job's until `release`.
        timeout_seconds: How long it may take for the next message, and how much CPU time it has for a start.
        on_failure: Is told when it had to be given up.
        on_release: Takes it back.
    """

    def __init__(
        self,
        process: DecoderProcess,
        timeout_seconds: float,
        on_failure: OnFailure,
        on_release: Callable[[DecoderProcess, bool], None],
    ) -> None:
        self._process = process
        self._timeout_seconds = timeout_seconds
        self._on_failure = on_failure
        self._on_release = on_release
        self._is_done = False
        self._is_released = False
        self._earned_seconds = 0.0
        process.num_jobs += 1
        process.grant_cpu(timeout_seconds)

    def send(self, kind: Kind, payload: bytes = b"", fd: int | None = None) -> None:
        """Send something that the decoder waits for.

        Raises:
            DecodingFailed: It is gone.
        """
        try:
            self._process.wire.send(kind, payload, fd=fd)
        except OSError:
            self._give_up_ended()

    def receive(self) -> tuple[Kind, bytes]:
        """Wait for the next message; DONE and FAILED are the last.

        Raises:
            ServiceError: The decoder says why it cannot go on.
            DecodingFailed: It crashed, or did not answer in time.
        """
        try:
            kind, payload = self._process.wire.receive(self._timeout_seconds)
        except TimeoutError:
            self._give_up("time", f"no sound came for {self._timeout_seconds:g} s (SONOTAG_DECODE_TIMEOUT_SECONDS)")
        except (EOFError, OSError):
            self._give_up_ended()
        except WireError as error:
            self._distrust(str(error))
        if kind is Kind.DONE:
            self._is_done = True
        elif kind is Kind.FAILED:
            self._refuse(self.parse(Failed, payload))
        return kind, payload

    def parse(self, model: type[_M], payload: bytes) -> _M:
        """Return a message's content.

        Raises:
            DecodingFailed: It is not what it should be.
        """
        try:
            return model.model_validate_json(payload)
        except pydantic.ValidationError as error:
            self._distrust(f"{model.__name__}: {error.error_count()} problems")

    def expect_sound(self, num_bytes: int, sample_bytes: int) -> None:
        """Check that there are whole samples.

        Raises:
            DecodingFailed: There are not.
        """
        if not num_bytes or num_bytes % sample_bytes:
            self._distrust(f"a block of {num_bytes} bytes")

    def earn(self, seconds: float) -> None:
        """Let it go on: it gave so much sound."""
        self._earned_seconds += CPU_SHARE * seconds
        if self._earned_seconds >= _RENEWAL_SECONDS:
            self._process.grant_cpu(self._timeout_seconds + self._earned_seconds)
            self._earned_seconds = 0.0

    def reject(self, what: str) -> NoReturn:
        """Give the decoder up: it says what it cannot mean.

        Raises:
            DecodingFailed: Always.
        """
        self._distrust(what)

    def interrupt(self) -> None:
        """End it, from any thread; who waits for it gets DecodingFailed."""
        self._process.kill()

    def release(self) -> None:
        """Give the process back, at work or not. Idempotent."""
        if not self._is_released:
            self._is_released = True
            self._on_release(self._process, self._is_done)

    def _refuse(self, failed: Failed) -> NoReturn:
        if failed.code == "memory":
            self._give_up("memory", "decoding needs more memory than it may have (SONOTAG_DECODER_MEMORY_BYTES)")
        if failed.code == "bug":
            log_event(logger, logging.ERROR, "a decoder failed", reason=failed.message)
            raise ServiceError("something went wrong on our side while the sound was decoded; the log knows it")
        error = _ERRORS.get(failed.code)
        if error is None:
            self._distrust(f"an error {failed.code!r}")
        self._is_done = True
        raise error(failed.message, param=failed.param)

    def _give_up_ended(self) -> NoReturn:
        ended_by = self._process.how_it_ended()
        if ended_by is signal.SIGXCPU:
            self._give_up("time", f"it took too much CPU time: {self._timeout_seconds:g} s (SONOTAG_DECODE_TIMEOUT_SECONDS)")
        self._give_up("crash", "the decoder crashed", ended_by.name if ended_by else "")

    def _distrust(self, what: str) -> NoReturn:
        self._give_up("crash", "the decoder crashed", f"it sent {what}")

    def _give_up(self, failure: DecoderFailure, message: str, detail: str = "") -> NoReturn:
        self._process.kill()
        self._on_failure(failure)
        log_event(logger, logging.WARNING, "a decoder was given up", failure=failure, detail=detail)
        raise DecodingFailed(f"{message}: the sound is damaged, or made to do that") from None


class ProcessSound:
    """A file in a decoder process: a `service.decoders.interface.ClipSound`.

    Args:
        job: New; closed with this.
        fd: The file; the caller's.
        channel: The channel to pick; None for the mean of all.
        target_rate: Hz of the samples to give.
        observe: Hears the seconds of ``decode`` and ``resample``.

    Raises:
        ServiceError: It cannot be opened.
    """

    def __init__(self, job: Job, fd: int, *, channel: int | None, target_rate: int, observe: Observe) -> None:
        self._job = job
        self._target_rate = target_rate
        self._observe = observe
        self.num_read_bytes = 0
        try:
            job.send(Kind.FILE, FileJob(channel=channel, target_rate=target_rate).model_dump_json().encode(), fd)
            kind, payload = job.receive()
            if kind is not Kind.OPENED:
                job.reject(f"{kind.name} at the start")
            opened = job.parse(Opened, payload)
        except BaseException:
            job.release()
            raise
        self.sample_rate, self.num_frames = opened.sample_rate, opened.num_frames

    def samples(self) -> Iterator[Int16Array]:
        """See `ClipSound`."""
        job = self._job
        while True:
            kind, payload = job.receive()
            if kind is Kind.DONE:
                return
            if kind is not Kind.BLOCK or len(payload) <= BLOCK_HEADER.size:
                job.reject(f"{kind.name} with {len(payload)} bytes")
            decode, resample, self.num_read_bytes = BLOCK_HEADER.unpack_from(payload)
            job.expect_sound(len(payload) - BLOCK_HEADER.size, 2)
            self._observe("decode", max(0.0, decode))
            self._observe("resample", max(0.0, resample))
            samples = np.frombuffer(payload, np.int16, offset=BLOCK_HEADER.size)
            job.earn(len(samples) / self._target_rate)
            yield samples

    def close(self) -> None:
        """See `ClipSound`. A decoder that is still at work is ended."""
        self._job.release()


class ProcessStream:
    """A stream in a decoder process: a `service.audio.intake.StreamDecoder`.

    Args:
        take_job: Makes the job when the stream's container is known.
        channel: The channel to pick; None for the mean of all.

    Attributes:
        sample_rate: Hz; None until the decoder knows it.
        channels: Likewise.
    """

    def __init__(self, take_job: Callable[[], Job], *, channel: int | None) -> None:
        self.sample_rate: int | None = None
        self.channels: int | None = None
        self._take_job = take_job
        self._channel = channel
        self._job: Job | None = None
        self._bytes = bytearray()
        self._is_wanted = False
        self._is_ended = False
        self._is_closed = False
        self._error: ServiceError | None = None
        self._is_done = False
        self._lock = threading.Lock()
        self._is_busy = False

    def start(self, container: str) -> None:
        """See `StreamDecoder`.

        Raises:
            QueueFull: As many streams are decoded as may be.
            Unavailable: The system lets no process be made.
        """
        with self._working():
            if not self._is_closed:
                self._job = job = self._take_job()
                job.send(Kind.STREAM, StreamJob(container=container, channel=self._channel).model_dump_json().encode())

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """See `StreamDecoder`."""
        if not self._is_done and not self._is_closed:
            self._bytes += data

    def end(self) -> None:
        """See `StreamDecoder`."""
        self._is_ended = True

    def take(self) -> Float32Array | None:
        """See `StreamDecoder`."""
        if self._error is not None:
            raise self._error
        with self._working():
            return self._take()

    def close(self) -> None:
        """See `StreamDecoder`: from any thread, also while another one waits in `take`."""
        with self._lock:
            self._is_closed = True
            if self._job is not None:
                self._job.interrupt()
                if not self._is_busy:
                    self._job.release()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Keep the job from being released while this thread uses it; what was closed meanwhile is released at the end."""
        with self._lock:
            self._is_busy = True
        try:
            yield
        finally:
            with self._lock:
                self._is_busy = False
                if self._job is not None and (self._is_closed or self._is_done):
                    self._job.interrupt()
                    self._job.release()

    def _take(self) -> Float32Array | None:
        try:
            while self._job is not None and not self._is_closed and not self._is_done:
                if self._is_wanted and not self._answer(self._job):
                    return None
                if (sound := self._receive(self._job)) is not None:
                    return sound
        except ServiceError as error:
            self._finish()
            if not self._is_closed:
                self._error = error
                raise
        return None

    def _answer(self, job: Job) -> bool:
        """Give the decoder the bytes that it waits for; return whether there was something to say."""
        if self._bytes:
            job.send(Kind.DATA, bytes(self._bytes[:DATA_BYTES]))
            del self._bytes[:DATA_BYTES]
        elif self._is_ended:
            job.send(Kind.END)
        else:
            return False
        self._is_wanted = False
        return True

    def _receive(self, job: Job) -> Float32Array | None:
        kind, payload = job.receive()
        if kind is Kind.WANTED:
            self._is_wanted = True
        elif kind is Kind.OPENED and self.sample_rate is None:
            opened = job.parse(Opened, payload)
            if opened.sample_rate > MAX_SAMPLE_RATE:
                job.reject("a sample rate out of range")
            self.sample_rate, self.channels = opened.sample_rate, opened.channels
        elif kind is Kind.BLOCK and self.sample_rate is not None:
            job.expect_sound(len(payload), 4)
            samples = np.frombuffer(payload, np.float32)
            job.earn(len(samples) / self.sample_rate)
            return samples
        elif kind is Kind.DONE:
            self._finish()
        else:
            job.reject(f"{kind.name} where it cannot be")
        return None

    def _finish(self) -> None:
        self._is_done = True
        self._bytes.clear()
