"""What can be told of an original ``.pth`` from its tensors' shapes, since it holds no configuration."""

from __future__ import annotations

import re

from export.architecture import NUM_SPECIAL_TOKENS, Architecture
from export.errors import CheckpointError
from export.network import Weights

HEAD_SIZE = 64
"""Width of an attention head in every DeiT and ViT that the original builds on."""
NUM_MEL_BINS = 128
USUAL_STRIDES = (10, 12, 14, 16)
USUAL_LENGTHS = (1024, 512, 128)
"""AudioSet, ESC-50 and Speech Commands, as the original trains them."""
LAYER_NORM_EPS = 1e-6
"""timm's epsilon for the blocks. The original's head has torch's default of 1e-5, and transformers has one for both: with
activations of order 1 the head's difference is 5e-6 of a logit."""
_EMBEDDINGS = "audio_spectrogram_transformer.embeddings."


def describe_original(
    weights: Weights, num_labels: int, stride: tuple[int, int] | None, max_length: int | None
) -> Architecture:
    """Work out the architecture.

    Args:
        weights: By their names on the hub.
        num_labels: Outputs of the head.
        stride: Frequency and time stride, where the caller knows them.
        max_length: Frames, where the caller knows them.

    Raises:
        CheckpointError: A tensor is missing, or the number of patches fits no usual stride and length, or several.
    """
    try:
        patches = weights[f"{_EMBEDDINGS}patch_embeddings.projection.weight"]
        positions = weights[f"{_EMBEDDINGS}position_embeddings"]
        mlp_size = weights["audio_spectrogram_transformer.encoder.layer.0.intermediate.dense.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks {error.args[0]}") from error
    except IndexError as error:
        raise CheckpointError("the checkpoint's intermediate.dense.weight is a number, expected a matrix") from error
    if patches.ndim != 4 or positions.ndim != 3 or patches.shape[0] % HEAD_SIZE:
        raise CheckpointError(f"patch weights of shape {tuple(patches.shape)} are not those of an original AST")
    layers = [re.match(r"audio_spectrogram_transformer\.encoder\.layer\.(\d+)\.", name) for name in weights]
    strides, length = _find_grid(positions.shape[1] - NUM_SPECIAL_TOKENS, patches.shape[2], stride, max_length)
    return Architecture(
        hidden_size=patches.shape[0],
        # Counted, not the highest of them: a name costs nothing, and every layer up to it would be listed.
        num_layers=len({match[1] for match in layers if match}),
        num_heads=patches.shape[0] // HEAD_SIZE,
        mlp_size=mlp_size,
        patch_size=patches.shape[2],
        frequency_stride=strides[0],
        time_stride=strides[1],
        num_mel_bins=NUM_MEL_BINS,
        max_length=length,
        num_labels=num_labels,
        layer_norm_eps=LAYER_NORM_EPS,
    )


def _find_grid(
    num_patches: int, patch_size: int, stride: tuple[int, int] | None, max_length: int | None
) -> tuple[tuple[int, int], int]:
    strides = [stride] if stride else [(step, step) for step in USUAL_STRIDES]
    lengths = [max_length] if max_length else USUAL_LENGTHS
    found = [
        (pair, length)
        for pair in strides
        for length in lengths
        if ((NUM_MEL_BINS - patch_size) // pair[0] + 1) * ((length - patch_size) // pair[1] + 1) == num_patches
    ]
    if len(found) != 1:
        known = "no" if not found else "more than one"
        raise CheckpointError(
            f"{num_patches} patches fit {known} stride of {', '.join(f'{f}x{t}' for f, t in strides)} with a length of "
            f"{', '.join(map(str, lengths))} frames: give --stride and --max-length"
        )
    return found[0]
