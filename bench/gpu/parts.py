"""The programs that measure, each in a process of its own with a share of the time; what one cannot do the others still do."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from bench.gpu.settings import Settings
from service.inference.reason import read_reason

MACHINE, SUBJECT, RACE, STREAMS, COST, FLOAT8, WAYS, PROCESSES, COMPILED = (
    "machine",
    "subject",
    "race",
    "streams",
    "cost",
    "float8",
    "ways",
    "processes",
    "compiled",
)
THROUGHPUT: Final = "throughput"
"""With a hyphen and how many workers behind it."""
END_SECONDS: Final = 20.0
"""For a part that is told to end: it may have a service to end."""
LEAST_SECONDS: Final = 3.0
_LOOK = ("torch", "onnxruntime", "pydantic")
_EXPORT = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "pydantic", "soundfile", "safetensors")
_SERVICE = (
    *("onnxruntime", "pydantic", "soundfile", "fastapi", "fastapi_offline", "uvicorn", "uvloop", "websockets", "soxr", "av"),
    *("pydantic_settings", "dotenv", "prometheus_client", "python_multipart", "rich", "httpx", "jwt"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One program, which writes what it measured into a file, as JSON, and prints it, as Markdown.

    Attributes:
        name: Of it and its file.
        needs: Modules without which it does not run.
        share: Of the time, against the other parts' shares.
        make_arguments: Returns what comes after the interpreter, for so many seconds.
    """

    name: str
    needs: tuple[str, ...]
    share: float
    make_arguments: Callable[[float], tuple[str, ...]]


def list_parts(settings: Settings) -> list[Part]:
    """Return what to run, what most goals are about first.

    What the others stand on has more of the time than it needs: what is left of it goes to them.
    """

    def own(name: str, share: float, spare: float = 0.0, needs: tuple[str, ...] = _EXPORT) -> Part:
        def arguments(seconds: float) -> tuple[str, ...]:
            own_flags = () if name in (MACHINE, SUBJECT) else ("--seconds", str(max(1.0, seconds - spare)))
            file = settings.file(name)
            return ("-m", f"bench.gpu.{name}", *settings.subject_flags(), *own_flags, "--output", str(file))

        return Part(name, needs, share, arguments)

    throughputs = [
        Part(f"{THROUGHPUT}-{workers}", _SERVICE, 50, partial(settings.throughput, workers))
        for workers in settings.throughput_workers
    ]
    return [
        own(MACHINE, 100, needs=_LOOK),
        own(SUBJECT, 300),
        own(RACE, 110, spare=30),
        Part(STREAMS, _SERVICE, 190, settings.streams),
        *throughputs,
        own(FLOAT8, 30),
        Part(COST, _SERVICE, 60, settings.cost),
        own(WAYS, 50),
        own(PROCESSES, 40),
        own(COMPILED, 60, spare=20),
    ]


def share_time(part: Part, rest: list[Part], seconds: float) -> float:
    """Return how many of the seconds that are left a part gets: what earlier ones did not use is shared among the later."""
    return seconds * part.share / (part.share + sum(other.share for other in rest))


def is_installed(name: str) -> bool:
    """Return whether there is a module of this name."""
    return importlib.util.find_spec(name) is not None


def run_part(part: Part, folder: Path, seconds: float) -> str | None:
    """Run a part, which prints what it measured.

    Args:
        part: What to run.
        folder: Where its file will be, and its log.
        seconds: After which it is told to end.

    Returns:
        None where it wrote its file, else why not.
    """
    if missing := [name for name in part.needs if not is_installed(name)]:
        return f"not installed: {', '.join(missing)}"
    if seconds < LEAST_SECONDS:
        return "no time was left"
    file, log = folder / f"{part.name}.json", folder / f"{part.name}.log"
    with log.open("w") as said:
        process = subprocess.Popen([sys.executable, *part.make_arguments(seconds)], stderr=said)
        try:
            process.wait(seconds + END_SECONDS)
        except subprocess.TimeoutExpired:
            _end(process)
            return None if file.is_file() else f"ended after {seconds + END_SECONDS:.0f} s without a result"
        except KeyboardInterrupt:
            _end(process)
            raise
    if not file.is_file():
        return _last_words(process.returncode, log)
    if process.returncode:
        print(f"\n(Ended with {_last_words(process.returncode, log)}; what it had measured counts.)", flush=True)
    return None


def _last_words(code: int, log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if code < 0:  # a crash in a library has no words of its own
        lines.append(f"{signal.Signals(-code).name}" + (f" after: {lines[-1].strip()}" if lines else ""))
    return read_reason(RuntimeError(lines[-1])) if lines else f"exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
