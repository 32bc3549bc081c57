"""Several server processes on one address: started, watched, restarted, drained.

The supervisor binds the address and keeps it, so that no connection is refused while a worker is replaced. Workers are
fresh processes, not forks: each sets up its own threads, model and metrics. They share nothing but the listening sockets
and the folder of metrics files; what must hold for all of them the supervisor keeps, and they ask it (`service.keeper`).
They are in sessions of their own, since Control-C in a terminal reaches a whole process group and a worker would take it,
and then the supervisor's signal, for the second one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import pickle
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from service import exit_codes
from service.access.tokens import load_token_secret
from service.capacity_file import read_machine
from service.child import Child, python_module
from service.errors import Unavailable
from service.gpu_choice import choose_gpu
from service.keeper.keeper import Keeper
from service.keeper.link import Link
from service.keeper.topics import PING, Nothing, Reloaded
from service.logs import log_event
from service.metrics_folder import MULTIPROCESS_VARIABLE, forget_worker, metrics_folder
from service.settings import Settings
from service.sockets import announce, describe, listen, remove_unix_socket
from service.worker_order import READY, Order, ReplacementCause

_logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS: Final = 1.0
LONGEST_BACKOFF_SECONDS: Final = 30.0
# A worker that was ready for this long died of something new.
_HEALTHY_SECONDS: Final = 60.0
# Past its drain a worker has 5 s for uvicorn's shutdown; then something hangs.
_GRACE_SECONDS: Final = 15.0
_SECOND_SIGNAL_SECONDS: Final = 3.0
_MIN_PATIENCE_SECONDS: Final = 1.0
# As in service.draining_server, and longer, so that the workers too take a second signal for one.
_SAME_SIGNAL_SECONDS: Final = 0.75


class Supervisor:
    """Keeps `settings.workers` processes alive until a signal, or until they cannot start.

    Args:
        settings: The whole service's settings.
        sockets: Bound sockets, which the caller owns.
        child: How to run a worker.
        metrics_folder: The folder the workers share.
        on_ready: Called once, when all workers are ready for the first time.
    """

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        child: Child,
        metrics_folder: Path,
        on_ready: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._child = child
        self._metrics_folder = metrics_folder
        self._on_ready = on_ready
        self._keeper = Keeper(settings, replace=self._replace_worker)
        self._reloads: set[asyncio.Task[Reloaded]] = set()
        self._num_started = 0
        self._processes: dict[int, Process] = {}
        self._numbered: dict[int, Process] = {}
        self._causes: dict[int, ReplacementCause] = {}
        self._ready: set[int] = set()
        self._was_ready = False
        self._stopping = asyncio.Event()
        self._exit_code = exit_codes.OK
        self._first_signal_at = 0.0

    async def run(self) -> int:
        """Run the workers and return the exit code: 0 after a clean drain of all of them."""
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self._receive_signal)
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(self._settings.workers):
                    group.create_task(self._keep_worker(index))
                log_event(_logger, logging.INFO, "workers are started", workers=self._settings.workers)
        finally:
            for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(sig)
                # The process is about to end: a late signal must not change how.
                signal.signal(sig, signal.SIG_IGN)
        return self._exit_code

    async def _keep_worker(self, index: int) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        cause: ReplacementCause | None = None
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                pid, code = await self._run_worker(index, cause)
            except OSError as error:  # no descriptor, process or memory is left: that is no reason to end the other workers
                reason = os.strerror(error.errno or 0)
                log_event(_logger, logging.ERROR, "a worker cannot be started", worker=index, reason=reason, again_in_s=backoff)
            else:
                was_ready = index in self._ready
                self._ready.discard(index)
                if self._stopping.is_set():
                    self._note_end(code, was_ready)
                    return
                if code == exit_codes.START and not self._was_ready:
                    self._exit_code = code
                    self._stop(signal.SIGTERM)
                    return
                if was_ready and time.monotonic() - started > _HEALTHY_SECONDS:
                    backoff = FIRST_BACKOFF_SECONDS
                cause = self._causes.pop(pid, "hung" if code == exit_codes.HUNG else "died")
                log_event(_logger, logging.ERROR, "a worker died", worker=index, pid=pid, code=code, restart_in_s=backoff)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _run_worker(self, index: int, replaces: ReplacementCause | None) -> tuple[int, int]:
        """Have a worker live its life, and return its process id and exit code.

        Raises:
            OSError: The system lets none be started.
        """
        ours, theirs = socket.socketpair()
        self._num_started += 1
        number = self._num_started
        link = Link(ours, self._keeper.desk, number)
        watching: asyncio.Task[None] | None = None
        try:
            process = await self._start_worker(index, theirs, replaces)
            self._numbered[number] = process
            await link.start()
            self._keeper.join(number, link)
            watching = asyncio.create_task(self._watch_loop(index, link, process))
            code = await self._watch_worker(index, process)
        finally:
            if watching is not None:
                watching.cancel()
            theirs.close()
            self._keeper.leave(number)
            self._numbered.pop(number, None)
            await link.close()
        forget_worker(self._metrics_folder, process.pid)
        return process.pid, code

    async def _start_worker(self, index: int, keeper_end: socket.socket, replaces: ReplacementCause | None) -> Process:
        fds = tuple(sock.fileno() for sock in self._sockets)
        environ = {
            **self._child.environ,
            **choose_gpu(self._child.environ, self._settings.gpus, index),
            MULTIPROCESS_VARIABLE: str(self._metrics_folder),
        }
        passed = (*fds, keeper_end.fileno())
        try:
            process = await asyncio.create_subprocess_exec(
                *self._child.command, env=environ, stdin=PIPE, stdout=PIPE, pass_fds=passed, start_new_session=True
            )
        except RuntimeError as error:  # Python 3.11 waits for a process in a thread, and this says that there is none
            raise OSError(errno.EAGAIN, str(error)) from error
        self._processes[index] = process
        assert process.stdin is not None
        # A new worker that answers 503 while it loads would take connections from those that are ready.
        order = Order(self._settings, fds, keeper_end.fileno(), listens_when_ready=bool(self._ready), replaces=replaces)
        process.stdin.write(pickle.dumps(order))
        keeper_end.close()  # the worker has it now, and its death must end the link
        if self._stopping.is_set():
            # The signal came while the process was being made.
            _send(process, signal.SIGTERM)
        return process

    async def _watch_worker(self, index: int, process: Process) -> int:
        """Read what a worker says until it ends, and return its exit code."""
        assert process.stdout is not None
        async for line in process.stdout:
            if line == READY:
                self._note_ready(index)
            else:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
        return await process.wait()

    async def _watch_loop(self, index: int, link: Link, process: Process) -> None:
        """Kill a worker whose event loop stands still: nothing in it could notice that itself."""
        # Asked twice: where the supervisor itself was stopped, its time-out comes before the answer that is there already.
        patience = max(_MIN_PATIENCE_SECONDS, self._settings.watchdog_seconds / 2)
        num_missed = 0
        while num_missed < 2:
            await asyncio.sleep(patience / 2)
            if index not in self._ready:
                continue  # a model that loads may keep it busy
            try:
                await link.ask(PING, Nothing(), seconds=patience)
                num_missed = 0
            except Unavailable:
                if not link.is_open:
                    return  # it ends, or has ended
                num_missed += 1
        log_event(_logger, logging.ERROR, "a worker stands still (SONOTAG_WATCHDOG_SECONDS) and is killed", pid=process.pid)
        self._kill(process, "stalled")

    def _replace_worker(self, number: int) -> None:
        """Kill the worker with this number in the keeper; what it holds is lost, but nobody knows what it would answer."""
        process = self._numbered.get(number)
        if process is not None:
            self._kill(process, "reload")

    def _kill(self, process: Process, cause: ReplacementCause) -> None:
        if process.returncode is None:
            self._causes.setdefault(process.pid, cause)
        _send(process, signal.SIGKILL)

    def _note_ready(self, index: int) -> None:
        self._ready.add(index)
        if not self._was_ready and len(self._ready) == self._settings.workers:
            self._was_ready = True
            self._on_ready()

    def _note_end(self, code: int, was_ready: bool) -> None:
        if code < 0:
            # A worker that had not yet set up its signal handlers had nothing to finish.
            code = exit_codes.UNFINISHED if was_ready else exit_codes.OK
        self._exit_code = self._exit_code or code

    def _receive_signal(self) -> None:
        now = time.monotonic()
        if not self._stopping.is_set():
            self._first_signal_at = now
            self._stop(signal.SIGTERM, kill_after=self._settings.drain_seconds + _GRACE_SECONDS)
        elif now - self._first_signal_at > _SAME_SIGNAL_SECONDS:
            # The workers take it for their second one.
            self._stop(signal.SIGTERM, kill_after=_SECOND_SIGNAL_SECONDS)

    def _begin_reload(self) -> None:
        """What the workers log says how it ends."""
        task = asyncio.ensure_future(self._keeper.reloads.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    def _stop(self, sig: signal.Signals, *, kill_after: float = _GRACE_SECONDS) -> None:
        self._stopping.set()
        for process in self._processes.values():
            _send(process, sig)
        asyncio.get_running_loop().call_later(kill_after, self._kill_all)

    def _kill_all(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                log_event(_logger, logging.ERROR, "a worker does not end and is killed", pid=process.pid)
            _send(process, signal.SIGKILL)


def run_supervisor(settings: Settings, child: Child | None = None) -> int:
    """Serve with several workers until a signal ends them.

    Args:
        settings: The settings; `workers` says how many.
        child: How to run a worker; `python -m service.worker` when not given.

    Returns:
        The exit code: `OK` after a clean drain, `START` when the workers cannot start, else that of a worker that ended
        otherwise.

    Raises:
        SettingsError: The address, the metrics folder, the secret of tokens or the measured capacity cannot be had.
    """
    with metrics_folder(os.environ) as folder:
        settings = settings.with_token_secret(load_token_secret(settings.token_secret_file))
        settings = settings.with_machine(read_machine(settings))
        sockets = listen(settings)
        try:
            address = describe(settings, sockets)
            worker = child or python_module("service.worker")
            return asyncio.run(Supervisor(settings, sockets, worker, folder, lambda: announce(address)).run())
        finally:
            for sock in sockets:
                sock.close()
            remove_unix_socket(settings)


def _send(process: Process, sig: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sig)
