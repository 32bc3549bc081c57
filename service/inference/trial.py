"""A graph from elsewhere is loaded and run in a process of its own first, within limits of memory and time.

A few bytes of a graph can ask for any amount of memory or time: a constant tensor of 2⁴⁰ elements, a loop. A service
that answers others while it loads a model anew would go down with it. The trial shows what the graph takes for one window of
each length. What it takes for other sound it does not show, where shapes depend on what is in the input.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from service.child import bare_environment, python_module
from service.errors import BundleError
from service.inference.bundle import WEIGHTS_FILE, Bundle
from service.inference.halving import tells_of_memory
from service.inference.runner import Precision
from service.inference.trial_process import MAX_ANSWER_BYTES

SHIPPED_BUNDLES: Final = Path(__file__).resolve().parents[1] / "bundles"
BASE_BYTES: Final = 1024**3
BYTES_OF_FILES: Final = 4
"""The embedded model takes 48 to 80 MiB, AST's base in windows of 10 s, with 491 MiB of files, 448 (float32) to 896 (int8)."""
CPU_SECONDS: Final = 120
"""Of processor time, and three times that on the clock, since others may want the same cores."""
MAX_REASON_CHARS: Final = 300
_MORE_SIGNS = ("bad alloc", "memoryerror", "cannot allocate memory")
"""Of memory that does not suffice: Python's own words, the loader's, and onnxruntime's where a graph is loaded."""


def is_shipped(folder: Path) -> bool:
    """Return whether a bundle lies in this package: whoever could change it could change the code beside it."""
    return folder.resolve().is_relative_to(SHIPPED_BUNDLES)


def default_memory_bytes(bundle: Bundle, precision: Precision) -> int:
    """Return what a trial of a graph may take where no setting says it, by the size of its files."""
    files = [bundle.model_path(precision)]
    if bundle.manifest.weights_sha256 is not None:
        files.append(bundle.folder / WEIGHTS_FILE)
    return BASE_BYTES + BYTES_OF_FILES * sum(file.stat().st_size for file in files)


def try_graph(bundle: Bundle, precision: Precision, memory_bytes: int | None = None, cpu_seconds: int = CPU_SECONDS) -> None:
    """Load and run a graph in a process of its own, on the CPU. Call it in a thread: it takes 0.2 to 0.3 s for a copy of the
    embedded bundle on two cores, and 1.5 to 1.8 s for AST's base.

    Args:
        bundle: The opened bundle.
        precision: Which of its graphs.
        memory_bytes: What the process may map for it; None for `default_memory_bytes`.
        cpu_seconds: Processor time that it may take.

    Raises:
        BundleError: It takes more, onnxruntime cannot run the graph, or no process can be started.
    """
    memory_bytes = memory_bytes or default_memory_bytes(bundle, precision)
    lengths = map(str, bundle.manifest.lengths_samples)
    path = str(bundle.model_path(precision).resolve())
    child = python_module(
        "service.inference.trial_process",
        path,
        str(memory_bytes),
        str(cpu_seconds),
        *lengths,
        environ=bare_environment(os.environ),
    )
    what = f"bundle {bundle.manifest.name!r}: {Path(path).name}"
    try:
        code, said, is_late = _run(child.command, child.environ, 3 * cpu_seconds)
    except OSError as error:
        raise BundleError(f"{what} cannot be tried in a process of its own: {error.strerror}") from error
    if is_late or code == -signal.SIGXCPU:
        raise BundleError(f"{what} takes more than {cpu_seconds} s to load and run once: it is not served")
    reason = said[:MAX_REASON_CHARS]
    if code != 0 or tells_of_memory(said, _MORE_SIGNS):
        ended = reason or f"its process ended with {code}"
        raise BundleError(
            f"{what} takes more memory to load and run one window than the {memory_bytes} bytes that it may, or crashes "
            f"(SONOTAG_MODEL_MEMORY_BYTES): {ended}"
        )
    if said:
        raise BundleError(f"{what} cannot be run by onnxruntime: {reason}")


def _run(command: tuple[str, ...], environ: Mapping[str, str], seconds: float) -> tuple[int, str, bool]:
    """Return the exit code, what it said, and whether it was ended for being too long."""
    late = threading.Event()

    with subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            assert process.stdout is not None
            said = process.stdout.read(MAX_ANSWER_BYTES)  # and no more of it than that, whatever it writes
            if len(said) == MAX_ANSWER_BYTES:
                process.kill()
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
    return code, said.decode(errors="replace"), late.is_set()
