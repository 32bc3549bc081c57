"""The three ways in which AST's tensors are named, and one of them that the rest of this package uses.

Hub names are what transformers writes to disk in every version, so they are the ones kept. transformers 5 holds other
names in memory (``layers.N.attention.q_proj``), which end in files saved with ``torch.save``. The original repository
uses timm's (``v.blocks.N.attn.qkv``).
"""

from __future__ import annotations

import re

from export.errors import CheckpointError
from export.network import Weights

_BODY = "audio_spectrogram_transformer."
_IN_MEMORY = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_TIMM_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_TIMM_REST = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_ORIGINAL_HEAD = {"mlp_head.0": "classifier.layernorm", "mlp_head.1": "classifier.dense"}


def is_original(tensors: Weights) -> bool:
    """Tell whether the names are those of the original repository."""
    return "v.pos_embed" in tensors


def from_memory(tensors: Weights) -> Weights:
    """Return hub names for hub names or for those that transformers 5 holds in memory."""
    renamed = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(rf"{re.escape(_BODY)}layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if match:
            part = _IN_MEMORY.get(match[2], match[2])
            name = f"{_BODY}encoder.layer.{match[1]}.{part}.{match[3]}"
        renamed[name] = tensor
    return renamed


def from_timm(tensors: Weights) -> Weights:
    """Return hub names for timm's names of a ViT or DeiT (``blocks.N.attn.qkv``, in the order query, key, value).

    The classification heads that such a network was trained with (``head``, ``head_dist``) are left out; a name that is
    not known is kept as it is, for `export.weights.check_tensors` to report.
    """
    renamed: Weights = {}
    for name, tensor in tensors.items():
        if re.match(r"(head|head_dist|pre_logits\.fc)\.", name):
            continue
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if not match:
            renamed[_BODY + _TIMM_REST[name] if name in _TIMM_REST else name] = tensor
            continue
        layer, part, kind = f"{_BODY}encoder.layer.{match[1]}.", match[2], match[3]
        if part != "attn.qkv":
            renamed[f"{layer}{_TIMM_BLOCK.get(part, part)}.{kind}"] = tensor
            continue
        num_rows = tensor.shape[0] if tensor.ndim else 1
        if num_rows % 3:
            raise CheckpointError(f"{name} has {num_rows} rows, expected query, key and value of equal size")
        for target, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            renamed[f"{layer}attention.attention.{target}.{kind}"] = rows.clone()
    return renamed


def from_original(tensors: Weights) -> Weights:
    """Return hub names for those of the original repository's ``.pth``."""
    body = {name.removeprefix("v."): tensor for name, tensor in tensors.items() if name.startswith("v.")}
    renamed = from_timm(body)
    for name, tensor in tensors.items():
        if not name.startswith("v."):
            stem, _, kind = name.rpartition(".")
            renamed[f"{_ORIGINAL_HEAD[stem]}.{kind}" if stem in _ORIGINAL_HEAD else name] = tensor
    return renamed
