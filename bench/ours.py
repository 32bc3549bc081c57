"""Our own runner, as the service runs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.contestants import Absent, Device, Facts, Run, Scores
from export.signals import Batch
from service.errors import StartError
from service.inference.bundle import open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.runner import Int16Array, Int64Array, Runner


class OwnRunner:
    """A `Runner`: int16 samples of numpy in, scores of numpy out.

    Larger batches than it serves run in pieces, as there: as many beside each other as it has lanes.

    Args:
        runner: Open; the caller closes it.
        name: Of the row.
    """

    def __init__(self, runner: Runner, name: str) -> None:
        self._runner = runner
        spec = runner.spec
        lanes = f", {spec.num_lanes} beside each other" if spec.num_lanes > 1 else ""
        note = f"in pieces of at most {spec.batch_sizes[-1]}, the largest batch that it serves{lanes}"
        self._lanes = ThreadPoolExecutor(spec.num_lanes, thread_name_prefix="lane")
        self.facts = Facts(name, spec.precision, "waveform to scores", note)

    def prepare(self, batch: Batch) -> Run:
        """See `Contestant`."""
        size = self._runner.spec.batch_sizes[-1]
        parts = [
            (batch.waveform[first : first + size], batch.lengths[first : first + size])
            for first in range(0, len(batch.lengths), size)
        ]

        def score(part: tuple[Int16Array, Int64Array]) -> Scores:
            return self._runner.run(*part, embedding=False).scores

        def run() -> Scores:
            return np.concatenate(list((self._lanes.map if len(parts) > 1 else map)(score, parts)))

        return run


def open_own(folders: Sequence[Path], device: Device) -> Iterator[OwnRunner | Absent]:
    """Yield a runner for each precision that the bundles hold; float16 only where it is served, on a GPU."""
    for folder in folders:
        bundle = open_bundle(folder)
        for precision in sorted(bundle.manifest.precisions, key=("fp32", "fp16", "int8").index):
            name = f"Sonotag {precision}" + (f" ({bundle.manifest.name})" if len(folders) > 1 else "")
            if precision not in bundle.manifest.preferred.get(device, ()):
                yield Absent(name, f"the bundle does not list it for {device}")
                continue
            try:
                yield OwnRunner(OnnxRunner.open(bundle, provider=device, precision=precision), name)
            except StartError as error:
                yield Absent(name, str(error))
