"""Where decoder processes come from: the service's end of `service.decoders.breeder`, and of each process that it makes."""

from __future__ import annotations

import json
import logging
import math
import os
import select
import signal
import socket
import subprocess
import threading
import time
from typing import Final

from service.child import bare_environment, python_module
from service.decoders.breeder import ANSWER, REQUEST, STATUS
from service.decoders.wire import Wire
from service.errors import Unavailable
from service.logs import log_event

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
_STATUS_SECONDS = 1.0
"""The breeder tells at once how a process ended; it may itself have been killed."""
KEPT_MEMORY: Final = {"MALLOC_MMAP_THRESHOLD_": str(1024**2), "MALLOC_TRIM_THRESHOLD_": str(2 * 1024**2)}
"""glibc's: a decoder keeps up to two megabytes that it has freed. It would take a block's memory from the kernel anew for every
second of sound: 250 page faults in five seconds of 48 kHz, 0.6 ms of 2.5. A block has up to 768 kB for each channel."""


class DecoderProcess:
    """One decoder. One thread at a time uses it; `kill` is for any.

    Attributes:
        pid: Its process.
        wire: What is said to it.
        num_jobs: Files it was given.
    """

    def __init__(self, pid: int, wire: Wire, status_fd: int) -> None:
        self.pid = pid
        self.wire = wire
        self.num_jobs = 0
        self._status_fd = status_fd
        self._lock = threading.Lock()
        self._is_closed = False
        # A number of a process may be another one's soon after its end; a descriptor of it may not.
        self._pid_fd = _open_pid(pid)

    def grant_cpu(self, seconds: float) -> None:
        """Let it use this much more CPU time from now on; beyond that the kernel ends it (SIGXCPU). Where the system cannot do
        that to another process, the parent's clock alone limits it."""
        try:
            import resource

            used = time.clock_gettime((~self.pid << 3) | 2)  # its own clock. Source: clock_getcpuclockid(3) in glibc
            hard = resource.prlimit(self.pid, resource.RLIMIT_CPU)[1]
            resource.prlimit(self.pid, resource.RLIMIT_CPU, (math.ceil(used + seconds), hard))
        except (AttributeError, OSError):
            pass

    def kill(self) -> None:
        """End it now, whatever it does, and wake whoever waits for it. `close` is still to be called."""
        with self._lock:
            if self._is_closed:
                return
            self.wire.shut_down()
            try:
                if self._pid_fd is None:
                    os.kill(self.pid, signal.SIGKILL)
                else:
                    signal.pidfd_send_signal(self._pid_fd, signal.SIGKILL)
            except OSError:
                pass  # it ended by itself

    def has_ended(self) -> bool:
        """Whether it is gone, however."""
        return _is_readable(self._status_fd if self._pid_fd is None else self._pid_fd, 0.0)

    def how_it_ended(self) -> signal.Signals | None:
        """Return the signal that ended it; None where it was none, or nobody knows."""
        told = os.read(self._status_fd, STATUS.size) if _is_readable(self._status_fd, _STATUS_SECONDS) else b""
        if len(told) < STATUS.size or not os.WIFSIGNALED(status := STATUS.unpack(told)[0]):
            return None
        return signal.Signals(os.WTERMSIG(status))

    def close(self) -> None:
        """Let it go; it ends by itself when it is idle. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.wire.close()
            os.close(self._status_fd)
            if self._pid_fd is not None:
                os.close(self._pid_fd)


class Nursery:
    """Makes decoder processes. Any thread may use it.

    It may be shared by several pools. What makes the processes is itself started again if it is gone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._breeder: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False
        self._is_told = False

    def start(self) -> None:
        """Start the process that they are copies of, without waiting for it."""
        with self._lock:
            self._start()

    def make(self, memory_bytes: int) -> DecoderProcess:
        """Return a new decoder, confined and idle.

        Args:
            memory_bytes: What it may allocate.

        Raises:
            Unavailable: The system lets no process be made now.
        """
        with self._lock:
            for _ in range(2):
                try:
                    self._start()
                    return self._make(memory_bytes)
                except (OSError, EOFError) as error:
                    logger.warning("decoder processes cannot be made: %s: %s; trying anew", type(error).__name__, error)
                    self._stop()
        raise _no_process()

    def close(self) -> None:
        """End what makes them. Idempotent; decoders that are at work go on."""
        with self._lock:
            self._stop()

    def _make(self, memory_bytes: int) -> DecoderProcess:
        """Ask for a decoder.

        Raises:
            Unavailable: There is no descriptor, memory or process left for one: the breeder is not to blame.
            OSError, EOFError: The breeder is gone.
        """
        assert self._control is not None
        if not self._is_ready:
            self._wait_ready(self._control)
        ours, theirs, status_fd, told_fd = _make_ends()
        try:
            socket.send_fds(self._control, [REQUEST.pack(memory_bytes)], [theirs.fileno(), told_fd])
            answer = self._control.recv(ANSWER.size, socket.MSG_WAITALL)
            if len(answer) < ANSWER.size:
                raise EOFError("the breeder ended")
            pid = ANSWER.unpack(answer)[0]
            if pid < 0:
                raise _no_process(-pid)
            return DecoderProcess(pid, Wire(ours), status_fd)
        except BaseException:
            ours.close()
            os.close(status_fd)
            raise
        finally:
            theirs.close()
            os.close(told_fd)

    def _start(self) -> None:
        if self._breeder is not None and self._breeder.poll() is None:
            return
        self._stop()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_START_SECONDS)
        environ = bare_environment(os.environ) | KEPT_MEMORY
        child = python_module("service.decoders.breeder", str(theirs.fileno()), environ=environ)
        with theirs:
            self._breeder = subprocess.Popen(
                child.command,
                env=child.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def _wait_ready(self, control: socket.socket) -> None:
        line = b""
        while not line.endswith(b"\n"):
            if not (received := control.recv(4096)):
                raise EOFError("the breeder ended before it was ready")
            line += received
        self._is_ready = True
        missing = json.loads(line)
        if missing and not self._is_told:
            self._is_told = True
            log_event(logger, logging.WARNING, "decoder processes are not fully confined", missing="; ".join(missing))

    def _stop(self) -> None:
        self._is_ready = False
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._breeder is not None:
            try:
                self._breeder.wait(_STATUS_SECONDS)
            except subprocess.TimeoutExpired:
                self._breeder.kill()
                self._breeder.wait()
            self._breeder = None


def _make_ends() -> tuple[socket.socket, socket.socket, int, int]:
    """Return both ends of a decoder's socket, and of the pipe that is told how it ended.

    Raises:
        Unavailable: There is no descriptor left.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise _no_process(error.errno) from error
    try:
        return ours, theirs, *os.pipe()
    except OSError as error:
        ours.close()
        theirs.close()
        raise _no_process(error.errno) from error


def _no_process(error: int | None = None) -> Unavailable:
    reason = f" ({os.strerror(error)})" if error else ""
    return Unavailable(f"the system lets no process be made to decode in{reason}; try again")


def _is_readable(fd: int, seconds: float) -> bool:
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def _open_pid(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
