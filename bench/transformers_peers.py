"""transformers running the same checkpoint: eager, and with its feature extractor as its users call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from transformers import ASTFeatureExtractor, ASTForAudioClassification

from bench.contestants import Device, Facts, Run, Scores
from export.architecture import SAMPLE_RATE
from export.checkpoint import Checkpoint
from export.frontend import INT16_SCALE
from export.reference import load_model, make_extractor
from export.signals import Batch
from service.inference.runner import FloatArray

Network = Callable[[torch.Tensor], torch.Tensor]


class TransformersPeer:
    """A network of torch on features that lie on its device, or with the extractor in front of it.

    Args:
        checkpoint: The model.
        device: Where it runs.
        network: Features `[batch, frames, mel bins]` to logits.
        dtype: Of the features and the network.
        facts: What it is. Where it counts from the waveform, the extractor runs each time, as transformers' users have it.
            Several batches are queued on the device one behind the other, and the last one's scores are fetched.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device, network: Network, dtype: torch.dtype, facts: Facts) -> None:
        self._extractor = make_extractor(checkpoint)
        self._is_softmax = checkpoint.activation == "softmax"
        self._device = device
        self._network = network
        self._dtype = dtype
        self.facts = facts

    def prepare(self, batch: Batch) -> Run:
        """See `Contestant`."""
        if self.facts.counts == "features to scores":
            values = self._place(extract(self._extractor, batch))
            return lambda: self._score(values)
        return lambda: self._score(self._place(extract(self._extractor, batch)))

    def _place(self, features: FloatArray) -> torch.Tensor:
        return torch.from_numpy(features).to(self._device, self._dtype)

    def _score(self, values: torch.Tensor) -> Scores:
        with torch.inference_mode():
            for _ in range(self.facts.batches):
                logits = self._network(values).float()
            scores = torch.softmax(logits, dim=1) if self._is_softmax else torch.sigmoid(logits)
            result: Scores = scores.cpu().numpy()
        return result


def extract(extractor: ASTFeatureExtractor, batch: Batch) -> FloatArray:
    """Return the features of a batch, in one call, each row's of its own length."""
    rows = [
        row[:length].astype(np.float32) / np.float32(INT16_SCALE)
        for row, length in zip(batch.waveform, batch.lengths, strict=True)
    ]
    values = extractor(rows, sampling_rate=SAMPLE_RATE)["input_values"]
    return np.stack([np.asarray(value, np.float32) for value in values])


def make_network(checkpoint: Checkpoint, device: Device, dtype: torch.dtype, attention: str) -> ASTForAudioClassification:
    """Return transformers' network on a device."""
    model = load_model(checkpoint).to(device, dtype)
    model.set_attn_implementation(attention)
    return model


def logits_of(model: ASTForAudioClassification) -> Network:
    """Return the network as a function of features."""

    def run(values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(input_values=values).logits
        return logits

    return run


def dtypes(device: Device) -> dict[str, torch.dtype]:
    """Return what the device can run well: a CPU has no float16 products worth the name."""
    return {"fp32": torch.float32} if device == "cpu" else {"fp32": torch.float32, "fp16": torch.float16}


def make_eager(checkpoint: Checkpoint, device: Device) -> Iterator[TransformersPeer]:
    """Yield transformers eager with SDPA in each precision, and as its users call it in the best one."""
    for precision, dtype in dtypes(device).items():
        network = logits_of(make_network(checkpoint, device, dtype, "sdpa"))
        name = f"transformers eager {precision}"
        yield TransformersPeer(checkpoint, device, network, dtype, Facts(name, precision, "features to scores", "SDPA"))
    facts = Facts(f"transformers as called, {precision}", precision, "waveform to scores", "its feature extractor, then eager")
    yield TransformersPeer(checkpoint, device, network, dtype, facts)
