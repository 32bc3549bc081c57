"""A new AST checkpoint from the ImageNet weights of a ViT or DeiT, as the original repository starts its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch

from export.architecture import NUM_SPECIAL_TOKENS, Architecture, expected_shapes
from export.checkpoint import POSITIONS, Checkpoint
from export.errors import CheckpointError
from export.frontend import Features
from export.labels import Activation, choose_activation, read_labels
from export.names import from_timm
from export.network import Weights
from export.positions import resize_frequency, resize_time, to_grid, to_rows
from export.reference import make_config, make_extractor
from export.target import staged_folder
from export.weights import check_tensors, read_tensors
from service.inference.bundle import hash_file

Size = Literal["tiny224", "small224", "base224", "base384"]
CONFIG_FILE = "config.json"
PATCH_SIZE = 16
NUM_LAYERS = 12
NUM_MEL_BINS = 128
HEAD_STD = 0.02
"""Of a new head's weights. Source: transformers' initializer_range for AST."""
_EMBEDDINGS = "audio_spectrogram_transformer.embeddings."
_PATCHES = f"{_EMBEDDINGS}patch_embeddings.projection.weight"
_CLASS_TOKEN = f"{_EMBEDDINGS}cls_token"
_DISTILLATION_TOKEN = f"{_EMBEDDINGS}distillation_token"
_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny224": (192, 3, 14),
    "small224": (384, 6, 14),
    "base224": (768, 12, 14),
    "base384": (768, 12, 24),
}
"""Width, heads, and patches along a side of the image."""


@dataclass(frozen=True, slots=True)
class InitRequest:
    """What checkpoint to make.

    Attributes:
        size: Width of the network and size of the images that it was trained on.
        vit: Its weights, by timm's names; a plain ViT or a distilled DeiT.
        labels: The label file of the new head.
        target: The folder to write, in Hugging Face's format.
        stride: Of the patches in frequency and time.
        max_length: Frames of the input.
        activation: What the head is to be trained with; None decides by the labels.
        seed: Of the new head's weights.
    """

    size: Size
    vit: Path
    labels: Path
    target: Path
    stride: tuple[int, int] = (10, 10)
    max_length: int = 1024
    activation: Activation | None = None
    seed: int = 0


def init_checkpoint(request: InitRequest) -> Checkpoint:
    """Make the checkpoint and write it.

    Returns:
        What was written.

    Raises:
        CheckpointError: The weights are not those of such a network, or the labels cannot be read.
        TargetError: The folder cannot be written.
    """
    labels = read_labels(request.labels)
    hidden, num_heads, side = _SIZES[request.size]
    architecture = Architecture(
        hidden_size=hidden,
        num_layers=NUM_LAYERS,
        num_heads=num_heads,
        mlp_size=4 * hidden,
        patch_size=PATCH_SIZE,
        frequency_stride=request.stride[0],
        time_stride=request.stride[1],
        num_mel_bins=NUM_MEL_BINS,
        max_length=request.max_length,
        num_labels=len(labels),
        layer_norm_eps=1e-6,
    )
    if min(request.stride) < 1 or request.max_length < PATCH_SIZE:
        raise CheckpointError(
            f"strides of {request.stride} with {request.max_length} frames make no patches of {PATCH_SIZE} frames"
        )
    weights = from_timm(read_tensors(request.vit))
    weights = _adapt(weights, architecture, side, request.size) | _new_head(architecture, request.seed)
    check_tensors(weights, expected_shapes(architecture))
    checkpoint = Checkpoint(
        name=request.target.absolute().name,
        architecture=architecture,
        features=Features(),
        labels=labels,
        activation=request.activation or choose_activation(None, labels),
        weights=weights,
        format="transformers",
        sha256=hash_file(request.vit),
        licence="unknown",
    )
    _write(checkpoint, request.target)
    return checkpoint


def _adapt(weights: Weights, architecture: Architecture, side: int, size: str) -> Weights:
    """Turn an image network's embeddings into those of a spectrogram's."""
    try:
        patches, positions, token = weights[_PATCHES], weights[POSITIONS], weights[_CLASS_TOKEN]
    except KeyError as error:
        raise CheckpointError(f"the ImageNet weights lack what becomes {error.args[0]}") from error
    hidden = architecture.hidden_size
    if patches.ndim != 4 or patches.shape[0] != hidden or patches.shape[2:] != (PATCH_SIZE, PATCH_SIZE):
        raise CheckpointError(f"patch weights of shape {tuple(patches.shape)} are not those of {size}")
    num_special = NUM_SPECIAL_TOKENS if _DISTILLATION_TOKEN in weights else 1
    if tuple(positions.shape) != (1, num_special + side * side, hidden):
        raise CheckpointError(
            f"position embeddings of shape {tuple(positions.shape)} are not those of {size}: expected {num_special} special "
            f"tokens and {side}x{side} patches"
        )
    frequency, time = architecture.grid
    # Time first, then frequency: the original's order, which decides which axis is interpolated from which.
    grid = resize_frequency(resize_time(to_grid(positions[:, num_special:], (side, side)), time), frequency)
    special = positions[:, :num_special].float()
    if num_special == 1:
        # A plain ViT has no distillation token: it starts as a second [CLS], so that their mean is what ViT would give.
        special = special.expand(-1, NUM_SPECIAL_TOKENS, -1)
    return weights | {
        _PATCHES: patches.sum(dim=1, keepdim=True),
        _DISTILLATION_TOKEN: weights.get(_DISTILLATION_TOKEN, token.clone()),
        POSITIONS: torch.cat([special, to_rows(grid)], dim=1),
    }


def _new_head(architecture: Architecture, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    shape = (architecture.num_labels, architecture.hidden_size)
    return {
        "classifier.layernorm.weight": torch.ones(architecture.hidden_size),
        "classifier.layernorm.bias": torch.zeros(architecture.hidden_size),
        "classifier.dense.weight": torch.randn(shape, generator=generator) * HEAD_STD,
        "classifier.dense.bias": torch.zeros(architecture.num_labels),
    }


def _write(checkpoint: Checkpoint, target: Path) -> None:
    with staged_folder(target, CONFIG_FILE) as folder:
        config = make_config(checkpoint)
        config.architectures = ["ASTForAudioClassification"]
        config.save_pretrained(folder)
        make_extractor(checkpoint).save_pretrained(folder)
        weights = {name: tensor.float().contiguous() for name, tensor in checkpoint.weights.items()}
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
