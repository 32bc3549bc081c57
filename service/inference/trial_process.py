"""The process of a trial (`service.inference.trial`): limits itself, then loads a graph and runs it.

It takes its orders as arguments and answers with one line: nothing when all went well, else what onnxruntime said.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import NoReturn

import numpy as np

from service.inference.bound_run import EMBEDDING, OUTPUTS
from service.inference.providers import create_session

MAX_ANSWER_BYTES = 4000
"""onnxruntime says at the end of a long line that there was not memory enough."""


def limit(memory_bytes: int, seconds: int) -> None:
    """Limit this process for the rest of its life.

    Args:
        memory_bytes: Address space beyond what is mapped now. Only Linux says what that is, and elsewhere it has no limit.
        seconds: Processor time from now on.
    """
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,  # no file grows
        resource.RLIMIT_CPU: math.ceil(time.process_time()) + seconds,
    }
    statm = Path("/proc/self/statm")
    if statm.exists():
        limits[resource.RLIMIT_AS] = int(statm.read_text().split()[0]) * resource.getpagesize() + memory_bytes
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        # The hard limit stays: at the hard one of time Linux sends SIGKILL, which says nothing, and at the soft one SIGXCPU.
        resource.setrlimit(name, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def run_graph(path: str, lengths_samples: list[int]) -> None:
    """Load a graph as the service does on a CPU, and run one window of each length.

    Raises:
        Exception: onnxruntime cannot, or has not memory enough.
    """
    session = create_session(path, "cpu", num_threads=1)
    for length in lengths_samples:
        waveform = (np.arange(length) * 40_503 % 65_536 - 32_768).astype(np.int16)[None]  # as loud as noise
        session.run([*OUTPUTS, EMBEDDING], {"waveform": waveform, "lengths": np.array([length], np.int64)})


def main() -> NoReturn:
    """Do what the arguments say: the graph, bytes of memory, seconds, and the lengths of window."""
    path, memory_bytes, seconds, *lengths = sys.argv[1:]
    limit(int(memory_bytes), int(seconds))
    reason = b""
    try:
        run_graph(path, [int(length) for length in lengths])
    except Exception as error:  # noqa: BLE001  (onnxruntime's own classes have no common parent below Exception)
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = first_line.encode()[: MAX_ANSWER_BYTES - 1]
    sys.stdout.buffer.write(reason)
    sys.stdout.buffer.flush()
    os._exit(0)  # what little memory is left need not be enough for an orderly end


if __name__ == "__main__":
    main()
