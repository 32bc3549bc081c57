"""The service around a model that costs nothing, so that the rest is all it costs: `python -m bench.free_service serve`.

`--loop asyncio` runs it on asyncio's event loop in place of uvloop's (`bench.loops`).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from service.commands.serve import add_arguments
from service.commands.setting_flags import read_settings
from service.inference.bundle import Bundle, open_bundle
from service.inference.runner import Int16Array, Int64Array, ModelOutput, ModelSpec
from service.inference.tuning import choose_by_rule
from service.settings import EMBEDDED_BUNDLE

NUM_HEARD = 5
"""Labels with a score above every threshold: each window's answer is as long as one with sound in it."""


class FreeRunner:
    """A `Runner` that answers at once, with the same scores for every window.

    Args:
        bundle: What it claims to be: windows, labels and batches are those of this model on the CPU.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.spec = ModelSpec(
            name=manifest.name,
            labels=bundle.labels,
            multi_label=True,
            sample_rate=manifest.sample_rate,
            window_samples=manifest.window_samples,
            windows_samples=manifest.lengths_samples,
            hop_samples=manifest.hop_samples,
            min_samples=manifest.min_samples,
            embedding_size=manifest.architecture.hidden_size,
            provider="cpu",
            precision="fp32",
            batch_sizes=choose_by_rule("cpu", "fp32", 1, manifest.architecture.hidden_size).batch_sizes,
            source_sha256=manifest.source.sha256,
        )
        largest = self.spec.batch_sizes[-1]
        self._scores = np.full((largest, len(self.spec.labels)), 0.01, np.float32)
        self._scores[:, :NUM_HEARD] = 0.9
        self._logits = np.log(self._scores / (1 - self._scores))
        self._embedding = np.zeros((largest, self.spec.embedding_size), np.float32)

    def prepare_thread(self) -> None:
        """See `Runner`."""

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        """See `Runner`."""
        rows = len(lengths)
        given = self._embedding[:rows].copy() if embedding else None
        return ModelOutput(self._logits[:rows].copy(), self._scores[:rows].copy(), given)

    def close(self) -> None:
        """See `Runner`."""


def main() -> None:
    """Serve, in one process."""
    parser = argparse.ArgumentParser(prog="python -m bench.free_service serve")
    add_arguments(parser)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    args = parser.parse_args(sys.argv[2:])
    settings = read_settings(args)
    from fastapi import FastAPI
    from uvicorn.config import LOOP_FACTORIES

    from service.app import create_app
    from service.keeper.client import KeeperClient
    from service.server import end_process, run_server
    from service.settings import Settings

    LOOP_FACTORIES["uvloop"] = LOOP_FACTORIES[args.loop]  # the service asks uvicorn for uvloop by name
    runner = FreeRunner(open_bundle(EMBEDDED_BUNDLE.folder))

    def create(settings: Settings, *, keeper: KeeperClient | None = None) -> FastAPI:
        return create_app(settings, keeper=keeper, runner=runner)

    end_process(run_server(settings, create))


if __name__ == "__main__":
    main()
