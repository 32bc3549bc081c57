"""Our own runner, as the service runs it: in prepared threads, from the memory that the service puts batches together in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.contestants import Absent, Device, Facts, Run, Scores
from export.signals import Batch
from service.bench.lanes import Lanes, place
from service.errors import StartError
from service.inference.bundle import open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import slow_precisions
from service.inference.runner import Int16Array, Int64Array, Runner


class OwnRunner:
    """A `Runner`: int16 samples in host memory in, scores of numpy out.

    Larger batches than it serves run in pieces, as there: as many beside each other as it has lanes.

    Args:
        runner: Open; the caller closes it.
        name: Of the row.
        batches: How many batches one run scores, as many of them beside each other as it has lanes.

    Raises:
        BundleError: One of its threads cannot be prepared.
    """

    def __init__(self, runner: Runner, name: str, batches: int = 1) -> None:
        self._lanes = Lanes(runner)
        self._runner = runner
        spec = runner.spec
        lanes = f", {spec.num_lanes} beside each other" if spec.num_lanes > 1 else ""
        note = f"in pieces of at most {spec.batch_sizes[-1]}, the largest batch that it serves{lanes}"
        self.facts = Facts(name, spec.precision, "waveform to scores", note, is_export=True, batches=batches)

    def prepare(self, batch: Batch) -> Run:
        """See `Contestant`."""
        parts = cut(batch, self._runner)

        def score(part: tuple[Int16Array, Int64Array]) -> Scores:
            return self._runner.run(*part, embedding=False).scores

        return lambda: np.concatenate(self._lanes.map(score, parts * self.facts.batches)[: len(parts)])


def cut(batch: Batch, runner: Runner) -> list[tuple[Int16Array, Int64Array]]:
    """Return a batch in pieces of at most the largest batch of a runner, each where the service would have it."""
    size = runner.spec.batch_sizes[-1]
    return [
        place(batch.waveform[first : first + size], batch.lengths[first : first + size], runner.spec.provider)
        for first in range(0, len(batch.lengths), size)
    ]


def open_own(folders: Sequence[Path], device: Device, batches: int = 1) -> Iterator[OwnRunner | Absent]:
    """Yield a runner for each precision that the bundles hold and that is served there: float16 on a GPU, int8 on a CPU that
    multiplies bytes. Each runs by the rule, whatever was measured and saved.

    Args:
        folders: The bundles.
        device: Where to run.
        batches: See `OwnRunner`.
    """
    for folder in folders:
        bundle = open_bundle(folder)
        for precision in sorted(bundle.manifest.precisions, key=("fp32", "fp16", "int8").index):
            name = f"Sonotag {precision}" + (f" ({bundle.manifest.name})" if len(folders) > 1 else "")
            name += f", {batches} batches in flight" if batches > 1 else ""
            if precision not in bundle.manifest.preferred.get(device, ()):
                yield Absent(name, f"the bundle does not list it for {device}")
                continue
            if device == "cpu" and precision in slow_precisions():
                yield Absent(name, "this CPU multiplies no bytes in one instruction, so it is not served by itself")
                continue
            try:
                yield OwnRunner(OnnxRunner.open(bundle, provider=device, precision=precision), name, batches)
            except StartError as error:
                yield Absent(name, str(error))
