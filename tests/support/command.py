"""The command `sonotag` in a process of its own, as users run it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.child import Child, python_module

TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    code: int
    output: str
    errors: str


def sonotag_child(*arguments: str, environ: Mapping[str, str] | None = None) -> Child:
    """Return how to run a command line; of this process's settings it gets none."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SONOTAG_", "PROMETHEUS_"))}
    return python_module("service", *arguments, environ=inherited | dict(environ or {}))


def run_sonotag(*arguments: str, cwd: Path, data: bytes = b"", environ: Mapping[str, str] | None = None) -> Done:
    """Run a command line to its end, with these bytes on its standard input."""
    child = sonotag_child(*arguments, environ=environ)
    done = subprocess.run(
        child.command, env=dict(child.environ), cwd=cwd, input=data, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def start_sonotag(*arguments: str, cwd: Path, environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a command line with pipes to all it reads and writes; the caller ends it."""
    child = sonotag_child(*arguments, environ=environ)
    pipe = subprocess.PIPE
    return subprocess.Popen(child.command, env=dict(child.environ), cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe)
