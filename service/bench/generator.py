"""One generator process: `python -m service.bench.generator`, with a pickled order on its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import subprocess
import sys
from collections.abc import Sequence

from service.bench.clips import run_clips
from service.bench.orders import ClipsOrder, ClipsResult, StreamsOrder, StreamsResult
from service.child import python_module
from service.errors import SonotagError

READY = b"ready\n"


class GeneratorError(SonotagError):
    """A generator process failed."""


class Generators:
    """Generator processes, started and waiting for orders; a context manager that leaves none behind.

    Args:
        num_processes: How many.
    """

    def __init__(self, num_processes: int) -> None:
        child = python_module("service.bench.generator")
        self._processes: list[subprocess.Popen[bytes]] = [
            subprocess.Popen(
                child.command, env=dict(child.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(num_processes)
        ]
        for process in self._processes:
            # What they need takes a while to import; the times in an order are counted from when all of them are up.
            assert process.stdout is not None
            process.stdout.readline()

    def send(self, orders: Sequence[StreamsOrder | ClipsOrder]) -> None:
        """Give each process its order."""
        for process, order in zip(self._processes, orders, strict=True):
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it failed; `results` says why
                process.stdin.write(pickle.dumps(order))
                process.stdin.close()

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def results(self) -> list[StreamsResult | ClipsResult]:
        """Wait for the processes and return what they answer, in order.

        Raises:
            GeneratorError: One of them failed; with the last line it said.
        """
        results: list[StreamsResult | ClipsResult] = []
        for process in self._processes:
            assert process.stdout is not None
            assert process.stderr is not None
            answer, said = process.stdout.read(), process.stderr.read()
            if process.wait() != 0:
                last = said.decode("utf-8", "replace").strip().splitlines()
                raise GeneratorError(f"a load generator failed: {last[-1] if last else f'exit code {process.returncode}'}")
            results.append(pickle.loads(answer))
        return results


def main() -> None:
    """Do what the order says and write the result to standard output."""
    from service.bench.streams import run_streams

    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    order = pickle.load(sys.stdin.buffer)
    # A pause of the collector would be late sound.
    gc.collect()
    gc.disable()
    result = asyncio.run(run_streams(order) if isinstance(order, StreamsOrder) else run_clips(order))
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
