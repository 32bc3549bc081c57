"""YAMNet as TFLite on LiteRT: a smaller network for the same labels, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from bench.contestants import Facts, Run, Scores
from export.frontend import INT16_SCALE
from export.signals import Batch
from service.machine import count_usable_cores

PATCH_SAMPLES = 15_600
"""0.975 s at 16 kHz: what the published model takes at a time."""
HOP_SAMPLES = 7_680
"""0.48 s: the hop of the published model."""


class YamnetPeer:
    """YAMNet on every patch of a window, the scores' mean over them.

    Args:
        path: The ``.tflite`` file: `[1, 15600]` samples in [-1, 1] in, scores out.
    """

    def __init__(self, path: Path) -> None:
        self._interpreter: Any = Interpreter(str(path), num_threads=count_usable_cores())
        self._interpreter.allocate_tensors()
        (first, *_), (output, *_) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._input, self._output, self._shape = first["index"], output["index"], tuple(first["shape"])
        note = "another, smaller model: 3.7 M parameters, patch by patch at its own hop of 0.48 s"
        self.facts = Facts("YAMNet (TFLite)", "int8 weights", "waveform to scores", note, is_same_model=False)

    def prepare(self, batch: Batch) -> Run:
        """See `Contestant`."""

        def run() -> Scores:
            return np.stack([self._score(row) for row in batch.waveform])

        return run

    def _score(self, samples: np.ndarray[tuple[int], np.dtype[np.int16]]) -> Scores:
        waveform = samples.astype(np.float32) / np.float32(INT16_SCALE)
        num_hops = max(0, -(-(len(waveform) - PATCH_SAMPLES) // HOP_SAMPLES))  # as published: the last patch is filled up
        waveform = np.pad(waveform, (0, PATCH_SAMPLES + num_hops * HOP_SAMPLES - len(waveform)))
        scores = []
        for first in range(0, num_hops * HOP_SAMPLES + 1, HOP_SAMPLES):
            patch = waveform[first : first + PATCH_SAMPLES]
            self._interpreter.set_tensor(self._input, patch.reshape(self._shape))
            self._interpreter.invoke()
            scores.append(self._interpreter.get_tensor(self._output).reshape(-1))
        mean: Scores = np.mean(scores, axis=0)
        return mean
