"""OpenVINO on the CPU, running the same checkpoint in the portable form of our export."""

from __future__ import annotations

from typing import Any

import openvino

from bench.contestants import Facts, Run, Scores
from export.checkpoint import Checkpoint
from export.convert import convert_tagger
from export.signals import Batch
from service.machine import count_usable_cores


class OpenVinoPeer:
    """OpenVINO, compiled for each batch size, with the hint that suits one request at a time.

    Args:
        checkpoint: The model.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._graph = convert_tagger(checkpoint, "portable", half=False).SerializeToString()
        self._core: Any = openvino.Core()
        note = "portable graph, compiled for each batch size"
        self.facts = Facts("OpenVINO fp32", "fp32", "waveform to scores", note, is_export=True)

    def prepare(self, batch: Batch) -> Run:
        """See `Contestant`."""
        model = self._core.read_model(self._graph)
        model.reshape({"waveform": list(batch.waveform.shape), "lengths": [len(batch.lengths)]})
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": count_usable_cores(),
            # Without it some processors compute in bfloat16, which the others do not.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = self._core.compile_model(model, "CPU", settings)
        request, output = compiled.create_infer_request(), compiled.output("scores")
        inputs = {"waveform": batch.waveform, "lengths": batch.lengths}

        def run() -> Scores:
            scores: Scores = request.infer(inputs)[output]
            return scores

        return run
