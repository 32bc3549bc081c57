"""What the exported graph is compared with: transformers running the same checkpoint in float32."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
import transformers
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from export.architecture import SAMPLE_RATE
from export.checkpoint import Checkpoint
from export.errors import CheckpointError
from export.frontend import INT16_SCALE
from export.graph import Float, Scored
from export.signals import Signal

BATCH_SIZE = 8
"""Windows that transformers scores at once: base takes 1.5 GB for eight."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the reference gives: features `[n, frames, mel bins]`, and the outputs of a graph."""

    features: Float
    outputs: Scored


class Reference:
    """A checkpoint as transformers loads and runs it, on the CPU in float32.

    Args:
        checkpoint: What to run. It is handed over as files, so that transformers does its own reading of names.

    Raises:
        CheckpointError: transformers does not find its tensors in it.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._is_softmax = checkpoint.activation == "softmax"
        self._extractor = make_extractor(checkpoint)
        self._model = load_model(checkpoint)

    def run(self, signals: tuple[Signal, ...]) -> Expected:
        """Score signals, each with the features of its own length."""
        features = np.stack([self._extract(signal) for signal in signals])
        logits, embeddings = [], []
        with torch.inference_mode():
            for values in torch.split(torch.from_numpy(features), BATCH_SIZE):
                embeddings.append(self._model.audio_spectrogram_transformer(values).pooler_output)
                logits.append(self._model.classifier(embeddings[-1]))
        all_logits = torch.cat(logits)
        scores = torch.softmax(all_logits, dim=1) if self._is_softmax else torch.sigmoid(all_logits)
        return Expected(features, Scored(all_logits.numpy(), scores.numpy(), torch.cat(embeddings).numpy()))

    def _extract(self, signal: Signal) -> Float:
        waveform = signal.samples.astype(np.float32) / np.float32(INT16_SCALE)
        values = self._extractor(waveform, sampling_rate=SAMPLE_RATE)["input_values"][0]
        return np.asarray(values, dtype=np.float32)


def make_extractor(checkpoint: Checkpoint) -> ASTFeatureExtractor:
    """Return transformers' feature extractor for the checkpoint."""
    with warnings.catch_warnings():
        # Filter 3 of 128 is empty at this FFT size, in Kaldi too; transformers remarks on it.
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        return ASTFeatureExtractor(
            num_mel_bins=checkpoint.architecture.num_mel_bins,
            max_length=checkpoint.architecture.max_length,
            mean=checkpoint.features.mean,
            std=checkpoint.features.std,
        )


def make_config(checkpoint: Checkpoint) -> ASTConfig:
    """Return transformers' configuration for the checkpoint."""
    architecture = checkpoint.architecture
    is_softmax = checkpoint.activation == "softmax"
    return ASTConfig(
        hidden_size=architecture.hidden_size,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.num_heads,
        intermediate_size=architecture.mlp_size,
        patch_size=architecture.patch_size,
        frequency_stride=architecture.frequency_stride,
        time_stride=architecture.time_stride,
        num_mel_bins=architecture.num_mel_bins,
        max_length=architecture.max_length,
        qkv_bias=architecture.has_qkv_bias,
        layer_norm_eps=architecture.layer_norm_eps,
        id2label=dict(enumerate(checkpoint.labels)),
        label2id={label: index for index, label in enumerate(checkpoint.labels)},
        problem_type="single_label_classification" if is_softmax else "multi_label_classification",
    )


def load_model(checkpoint: Checkpoint) -> ASTForAudioClassification:
    """Write the checkpoint as transformers would, and let it load that.

    Raises:
        CheckpointError: transformers reports a tensor that is missing or that it does not expect.
    """
    with tempfile.TemporaryDirectory(prefix="sonotag-reference-") as folder, _quiet():
        make_config(checkpoint).save_pretrained(folder)
        weights = {name: tensor.float().contiguous() for name, tensor in checkpoint.weights.items()}
        safetensors.torch.save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
        model, report = ASTForAudioClassification.from_pretrained(folder, output_loading_info=True)
    wrong = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if wrong:
        raise CheckpointError(f"transformers {transformers.__version__} does not load {', '.join(wrong[:3])} as written")
    loaded: ASTForAudioClassification = model.float().eval()
    return loaded


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Turn off transformers' own progress bar: there is one already."""
    was_on = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers.utils.logging.enable_progress_bar()
