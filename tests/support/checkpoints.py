"""Small AST checkpoints with random weights, as files: by the hub's names, in memory's names, and as an original ``.pth``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from export.architecture import Architecture, expected_shapes

Tensors = dict[str, torch.Tensor]
BODY = "audio_spectrogram_transformer."
LABELS = ("Speech", "Music", "Rain", "Dog", "Silence")


@dataclass(frozen=True, slots=True)
class Spec:
    """What checkpoint to make; small, and otherwise like the real ones."""

    stride: tuple[int, int] = (16, 16)
    max_length: int = 96
    labels: tuple[str, ...] = LABELS
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    qkv_bias: bool = True
    problem_type: str | None = "multi_label_classification"
    mean: float = -4.2677393
    std: float = 4.5689974

    @property
    def architecture(self) -> Architecture:
        return Architecture(
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_size=4 * self.hidden_size,
            patch_size=16,
            frequency_stride=self.stride[0],
            time_stride=self.stride[1],
            num_mel_bins=128,
            max_length=self.max_length,
            num_labels=len(self.labels),
            has_qkv_bias=self.qkv_bias,
        )


def random_tensors(spec: Spec, seed: int = 3) -> Tensors:
    """Weights by the hub's names, large enough for attention to choose and for every bias to matter."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in expected_shapes(spec.architecture).items():
        scale = 1.5 / shape[-1] ** 0.5 if len(shape) == 2 else 0.3
        if "projection.weight" in name:
            scale = 0.05
        tensors[name] = torch.randn(shape, generator=generator) * scale
        if "layernorm" in name and name.endswith("weight"):
            tensors[name] += 1.0
    return tensors


def config_of(spec: Spec) -> dict[str, object]:
    config: dict[str, object] = {
        "model_type": "audio-spectrogram-transformer",
        "architectures": ["ASTForAudioClassification"],
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": 4 * spec.hidden_size,
        "frequency_stride": spec.stride[0],
        "time_stride": spec.stride[1],
        "max_length": spec.max_length,
        "qkv_bias": spec.qkv_bias,
        "id2label": {str(index): label for index, label in enumerate(spec.labels)},
        "label2id": {label: index for index, label in enumerate(spec.labels)},
    }
    if spec.problem_type:
        config["problem_type"] = spec.problem_type
    return config


def preprocessor_of(spec: Spec) -> dict[str, object]:
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "do_normalize": True,
        "max_length": spec.max_length,
        "mean": spec.mean,
        "std": spec.std,
        "num_mel_bins": 128,
        "sampling_rate": 16_000,
    }


def write_checkpoint(folder: Path, spec: Spec | None = None, tensors: Tensors | None = None, *, as_bin: bool = False) -> Path:
    """Write a folder in Hugging Face's format."""
    spec = spec or Spec()
    tensors = random_tensors(spec) if tensors is None else tensors
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(spec)))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor_of(spec)))
    if as_bin:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def to_memory_names(tensors: Tensors) -> Tensors:
    """The names that transformers 5 holds in memory, and that ``torch.save(model.state_dict())`` therefore writes."""
    renames = [
        (".encoder.layer.", ".layers."),
        (".attention.attention.query.", ".attention.q_proj."),
        (".attention.attention.key.", ".attention.k_proj."),
        (".attention.attention.value.", ".attention.v_proj."),
        (".attention.output.dense.", ".attention.o_proj."),
        (".intermediate.dense.", ".mlp.fc1."),
        (".output.dense.", ".mlp.fc2."),
    ]
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in renames:
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def to_original_names(tensors: Tensors, num_layers: int) -> Tensors:
    """The original repository's names, as its data-parallel training saves them, with the heads it left over from DeiT."""
    embeddings = f"{BODY}embeddings."
    original = {
        "module.v.cls_token": tensors[f"{embeddings}cls_token"],
        "module.v.dist_token": tensors[f"{embeddings}distillation_token"],
        "module.v.pos_embed": tensors[f"{embeddings}position_embeddings"],
        "module.v.head.weight": torch.zeros(1000, 4),
        "module.v.head.bias": torch.zeros(1000),
        "module.v.head_dist.weight": torch.zeros(1000, 4),
        "module.v.head_dist.bias": torch.zeros(1000),
    }
    for kind in ("weight", "bias"):
        original[f"module.v.patch_embed.proj.{kind}"] = tensors[f"{embeddings}patch_embeddings.projection.{kind}"]
        original[f"module.v.norm.{kind}"] = tensors[f"{BODY}layernorm.{kind}"]
        original[f"module.mlp_head.0.{kind}"] = tensors[f"classifier.layernorm.{kind}"]
        original[f"module.mlp_head.1.{kind}"] = tensors[f"classifier.dense.{kind}"]
        for index in range(num_layers):
            layer, block = f"{BODY}encoder.layer.{index}.", f"module.v.blocks.{index}."
            parts = [tensors[f"{layer}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            original[f"{block}attn.qkv.{kind}"] = torch.cat(parts)
            original[f"{block}attn.proj.{kind}"] = tensors[f"{layer}attention.output.dense.{kind}"]
            original[f"{block}norm1.{kind}"] = tensors[f"{layer}layernorm_before.{kind}"]
            original[f"{block}norm2.{kind}"] = tensors[f"{layer}layernorm_after.{kind}"]
            original[f"{block}mlp.fc1.{kind}"] = tensors[f"{layer}intermediate.dense.{kind}"]
            original[f"{block}mlp.fc2.{kind}"] = tensors[f"{layer}output.dense.{kind}"]
    return original


def random_vit(hidden_size: int, side: int, *, distilled: bool, num_layers: int = 12) -> Tensors:
    """ImageNet weights by timm's names, as they would be with random numbers in them."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.05

    special = 2 if distilled else 1
    tensors = {
        "cls_token": draw(1, 1, hidden_size),
        "pos_embed": draw(1, special + side * side, hidden_size),
        "patch_embed.proj.weight": draw(hidden_size, 3, 16, 16),
        "patch_embed.proj.bias": draw(hidden_size),
        "norm.weight": draw(hidden_size) + 1.0,
        "norm.bias": draw(hidden_size),
        "head.weight": draw(10, hidden_size),
        "head.bias": draw(10),
    }
    if distilled:
        tensors |= {
            "dist_token": draw(1, 1, hidden_size),
            "head_dist.weight": draw(10, hidden_size),
            "head_dist.bias": draw(10),
        }
    shapes = {
        "norm1": (hidden_size,),
        "norm2": (hidden_size,),
        "attn.qkv": (3 * hidden_size, hidden_size),
        "attn.proj": (hidden_size, hidden_size),
        "mlp.fc1": (4 * hidden_size, hidden_size),
        "mlp.fc2": (hidden_size, 4 * hidden_size),
    }
    for index in range(num_layers):
        for part, shape in shapes.items():
            tensors[f"blocks.{index}.{part}.weight"] = draw(*shape) + (1.0 if part.startswith("norm") else 0.0)
            tensors[f"blocks.{index}.{part}.bias"] = draw(shape[0])
    return tensors
