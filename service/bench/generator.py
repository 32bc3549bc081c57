"""One generator process: `python -m service.bench.generator`, with a pickled order on its standard input."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
from collections.abc import Sequence

from service.bench.clips import run_clips
from service.bench.orders import ClipsOrder, ClipsResult, StreamsOrder, StreamsResult
from service.child import python_module
from service.errors import SonotagError


class GeneratorError(SonotagError):
    """A generator process failed."""


class Generators:
    """Generator processes that work on their orders; a context manager that leaves none behind.

    Args:
        orders: One for each process.
    """

    def __init__(self, orders: Sequence[StreamsOrder | ClipsOrder]) -> None:
        child = python_module("service.bench.generator")
        self._processes: list[subprocess.Popen[bytes]] = []
        for order in orders:
            process = subprocess.Popen(
                child.command, env=dict(child.environ), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            self._processes.append(process)
            assert process.stdin is not None
            process.stdin.write(pickle.dumps(order))
            process.stdin.close()

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
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

    order = pickle.load(sys.stdin.buffer)
    # A pause of the collector would be late sound.
    gc.collect()
    gc.disable()
    result = asyncio.run(run_streams(order) if isinstance(order, StreamsOrder) else run_clips(order))
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
