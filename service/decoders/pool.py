"""The decoders of one service process: how many work at once, who waits, and when one is replaced."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import IO

from service.audio.intake import StreamDecoder
from service.audio.stopwatch import Observe
from service.decoders.jobs import Job, OnFailure, ProcessSound, ProcessStream
from service.decoders.nursery import DecoderProcess, Nursery
from service.decoders.wire import share_file
from service.errors import QueueFull

MAX_JOBS = 100
"""Files that one process decodes before it is replaced: what leaks, or was corrupted and did not crash, ends with it. The
three milliseconds of a new one are nothing then."""
MAX_IDLE = 4
TRIM_SECONDS = 5.0
"""How often those that were not needed are looked for. What comes after a longer pause waits the three milliseconds of a new
one, and no memory is held for it."""
_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """What the decoders of one service process are held to.

    Attributes:
        max_files: Files that are decoded at once.
        max_streams: Streamed containers that are decoded at once.
        timeout_seconds: How long a decoder may take for the next second of sound, and its CPU time for a start.
        memory_bytes: What one may allocate.
        wait_seconds: How long a file waits for its turn.
    """

    max_files: int
    max_streams: int
    timeout_seconds: float
    memory_bytes: int
    wait_seconds: float


class DecoderPool:
    """A `service.decoders.interface.Decoders` in processes.

    Files take turns, on one event loop; a process is reused for files, and is one stream's alone.

    Args:
        limits: What they are held to.
        nursery: Makes the processes.
        on_failure: Is told when a decoder had to be given up, in any thread.
    """

    def __init__(self, limits: DecoderLimits, nursery: Nursery, on_failure: OnFailure) -> None:
        self._limits = limits
        self._nursery = nursery
        self._on_failure = on_failure
        self._turns = asyncio.Semaphore(limits.max_files)
        self._num_waiting = 0
        self._lock = threading.Lock()
        self._idle: list[DecoderProcess] = []
        self._num_unneeded = 0
        self._num_streams = 0
        self._is_closed = False

    @property
    def idle_pids(self) -> list[int]:
        """The processes that wait for a file."""
        with self._lock:
            return [process.pid for process in self._idle]

    def start(self) -> None:
        """Have a decoder ready. It blocks."""
        with self._lock:
            is_needed = not self._idle
        if is_needed:
            self._keep(self._nursery.make(self._limits.memory_bytes))

    def trim(self) -> int:
        """End the idle processes that nothing has needed since the last call, all but one; return how many."""
        with self._lock:
            num_ended = max(0, min(self._num_unneeded, len(self._idle) - 1))
            ended, self._idle = self._idle[:num_ended], self._idle[num_ended:]
            self._num_unneeded = len(self._idle)
        for process in ended:
            process.close()
        return num_ended

    def check_line(self) -> None:
        """See `Decoders`."""
        max_files = self._limits.max_files
        if self._turns.locked() and self._num_waiting >= max_files:
            raise QueueFull(
                f"{max_files} files are being decoded and as many wait (SONOTAG_MAX_DECODERS)", retry_after_s=_RETRY_SECONDS
            )

    @asynccontextmanager
    async def turn(self, *, is_patient: bool = False) -> AsyncIterator[None]:
        """See `Decoders`."""
        limits = self._limits
        if not is_patient:
            self.check_line()
        self._num_waiting += 1
        try:
            async with asyncio.timeout(limits.wait_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise QueueFull(
                f"{limits.max_files} files are being decoded (SONOTAG_MAX_DECODERS), and none was done in "
                f"{limits.wait_seconds:g} s (SONOTAG_REQUEST_TIMEOUT_SECONDS)",
                retry_after_s=_RETRY_SECONDS,
            ) from None
        finally:
            self._num_waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    def open_file(self, file: IO[bytes], *, channel: int | None, target_rate: int, observe: Observe) -> ProcessSound:
        """See `Decoders`."""
        with _shared(file) as fd:
            job = self._make_job(self._take_idle() or self._nursery.make(self._limits.memory_bytes))
            return ProcessSound(job, fd, channel=channel, target_rate=target_rate, observe=observe)

    def stream_decoder(self, *, channel: int | None) -> StreamDecoder:
        """See `Decoders`."""
        return ProcessStream(self._take_stream_job, channel=channel)

    def close(self) -> None:
        """End the idle ones; those at work end with their jobs. The nursery stays its owner's."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()

    def _take_idle(self) -> DecoderProcess | None:
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
                self._num_unneeded = min(self._num_unneeded, len(self._idle))
            if process is None or not process.has_ended():
                return process
            process.close()  # somebody else ended it: the next file is not to blame

    def _make_job(self, process: DecoderProcess) -> Job:
        return Job(process, self._limits.timeout_seconds, self._on_failure, self._take_back)

    def _take_back(self, process: DecoderProcess, is_done: bool) -> None:
        if not is_done:
            process.kill()
        if not is_done or process.num_jobs >= MAX_JOBS:
            process.close()
        else:
            self._keep(process)

    def _keep(self, process: DecoderProcess) -> None:
        with self._lock:
            is_kept = not self._is_closed and len(self._idle) < MAX_IDLE
            if is_kept:
                self._idle.append(process)
        if not is_kept:
            process.close()

    def _take_stream_job(self) -> Job:
        with self._lock:
            if self._num_streams >= self._limits.max_streams:
                raise QueueFull(
                    f"{self._num_streams} streams of containers are decoded, the limit is {self._limits.max_streams} "
                    "(SONOTAG_MAX_CONTAINER_STREAMS); raw samples have no such limit",
                    retry_after_s=5.0,
                )
            self._num_streams += 1
        try:
            process = self._nursery.make(self._limits.memory_bytes)
        except BaseException:
            self._end_stream()
            raise

        def take_back(process: DecoderProcess, _: bool) -> None:
            process.kill()
            process.close()
            self._end_stream()

        return Job(process, self._limits.timeout_seconds, self._on_failure, take_back)

    def _end_stream(self) -> None:
        with self._lock:
            self._num_streams -= 1


@contextmanager
def _shared(file: IO[bytes]) -> Iterator[int]:
    """Lend a descriptor of a file that a decoder can read and cannot change; a small upload is in memory still."""
    is_spooled_in_memory = isinstance(file, tempfile.SpooledTemporaryFile) and not getattr(file, "_rolled", True)
    own = None
    try:
        fd = -1 if is_spooled_in_memory else file.fileno()
    except OSError:  # io.UnsupportedOperation: bytes in memory
        fd = -1
    try:
        if fd < 0:
            own = _copy_to_memory_file(file)
            fd = own
        else:
            file.flush()
        shared = share_file(fd)
        try:
            yield shared
        finally:
            os.close(shared)
    finally:
        if own is not None:
            os.close(own)


def _copy_to_memory_file(file: IO[bytes]) -> int:
    file.seek(0)
    data = memoryview(file.read())
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("clip", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as copy:
            fd = os.dup(copy.fileno())
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BaseException:
        os.close(fd)
        raise
    return fd
