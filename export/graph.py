"""Running an exported graph while it is being checked."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from export.errors import ExportError
from export.signals import Batch
from service.inference.providers import CPU, CUDA, create_session
from service.inference.reason import read_reason
from service.inference.runner import Provider
from service.machine import count_usable_cores

Float = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scored:
    """A graph's outputs for a batch: `[batch, labels]` twice, and `[batch, hidden]`."""

    logits: Float
    scores: Float
    embedding: Float


class Graph:
    """An onnxruntime session on one provider, made as the service makes it.

    Args:
        model: The graph, or the path of its file.
        provider: Where to run.

    Raises:
        ExportError: onnxruntime refuses the graph, or the provider cannot be had.
    """

    def __init__(self, model: onnx.ModelProto | Path, provider: Provider = "cpu") -> None:
        content = str(model) if isinstance(model, Path) else model.SerializeToString()
        try:
            self._session = create_session(content, provider, num_threads=count_usable_cores())
        except Exception as error:  # its classes have no base of their own
            raise ExportError(f"onnxruntime refuses the exported graph: {read_reason(error)}") from error
        if self._session.get_providers()[0] != (CUDA if provider == "cuda" else CPU):
            raise ExportError(f"onnxruntime cannot use {provider} here")
        self.provider: Provider = provider

    def run(self, batch: Batch) -> Scored:
        """Score a batch."""
        return Scored(*self._run(["logits", "scores", "embedding"], batch))

    def features(self, batch: Batch) -> Float:
        """Compute a batch's features, of the graph that `export.convert.convert_features` makes."""
        return self._run(["features"], batch)[0]

    def seconds_a_window(self, batch: Batch, runs: int = 5) -> float:
        """Return the median time of a run over the batch's windows, after one that is not counted."""
        self._run(["scores"], batch)
        taken = []
        for _ in range(runs):
            started = time.perf_counter()
            self._run(["scores"], batch)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken) / len(batch.lengths)

    def _run(self, outputs: list[str], batch: Batch) -> list[Float]:
        results: list[Float] = self._session.run(outputs, {"waveform": batch.waveform, "lengths": batch.lengths})
        return results
