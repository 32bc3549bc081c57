"""A service in a process of its own, as users run it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from service.child import python_module

START_SECONDS = 120


def clean_environ(**more: str) -> dict[str, str]:
    """Return this process's environment without settings of ours, with a free port, and with more variables."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SONOTAG_", "PROMETHEUS_"))}
    # What the developer's own machine can take is nothing that a test knows.
    return inherited | {"SONOTAG_PORT": "0", "XDG_STATE_HOME": "/nonexistent"} | more


class ServiceProcess:
    """A started service, its address, and what it has said.

    Args:
        command: What to run.
        environ: Its whole environment; see `clean_environ`.
        cwd: Where to run it.
    """

    def __init__(self, command: Sequence[str], *, environ: Mapping[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.errors: list[str] = []
        self.output: list[str] = []
        self._events: queue.Queue[str | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read, args=(self._process.stdout, self.output), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self.errors), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.url = ""

    def _read(self, pipe: object, lines: list[str]) -> None:
        for line in pipe:  # type: ignore[attr-defined]
            lines.append(line)
            self._events.put(line)
        self._events.put(None)

    def children(self) -> list[int]:
        """Return the ids of the processes that it has started and that live."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Return the first line, of those not yet waited past, on either output that matches."""
        ended = 0
        while ended < 2:
            line = self._events.get(timeout=START_SECONDS)
            if line is None:
                ended += 1
            elif match := re.search(pattern, line):
                return match
        raise AssertionError(f"it ended without a line like {pattern}:\n" + "".join(self.output + self.errors))

    def wait_ready(self) -> str:
        """Return the address that it prints."""
        self.url = self.wait_for_line(r"Sonotag is ready on (\S+)")[1]
        return self.url

    def send_signal(self, sig: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(sig)

    def insist(self, sig: signal.Signals) -> int:
        """Send it signals until it ends, as an impatient user does, and return its exit code."""
        for _ in range(100):
            self.send_signal(sig)
            with suppress(subprocess.TimeoutExpired):
                return self.wait(0.4)
        raise AssertionError("it does not end:\n" + self.stderr)

    def wait(self, timeout: float = 60) -> int:
        """Return its exit code."""
        code = self._process.wait(timeout)
        for thread in self._threads:
            thread.join(timeout)
        return code

    def end_cleanly(self) -> int:
        """Ask it to end and return its exit code."""
        self.send_signal(signal.SIGTERM)
        return self.wait()

    @property
    def stderr(self) -> str:
        """What it has logged so far."""
        return "".join(self.errors)

    def end(self) -> None:
        """End it and whatever it started, however it is."""
        if self._process.poll() is None:
            try:
                self.insist(signal.SIGTERM)
            finally:
                self._process.kill()
        for thread in self._threads:
            thread.join(20)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def running_command(command: Sequence[str], *, environ: Mapping[str, str], cwd: Path) -> Iterator[ServiceProcess]:
    """Run a service for as long as the context is open."""
    process = ServiceProcess(command, environ=environ, cwd=cwd)
    try:
        yield process
    finally:
        process.end()


@contextmanager
def running(module: str, *arguments: str, environ: Mapping[str, str] | None = None, cwd: Path) -> Iterator[ServiceProcess]:
    """Run a module of this repository, as after `python -m`, for as long as the context is open."""
    child = python_module(module, *arguments, environ=clean_environ(**(environ or {})))
    with running_command(child.command, environ=child.environ, cwd=cwd) as process:
        yield process
