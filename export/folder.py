"""A checkpoint folder in Hugging Face's format: the JSON files beside the weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from export.architecture import SAMPLE_RATE, Architecture
from export.errors import CheckpointError
from export.frontend import Features
from export.labels import check_labels, order_labels

MAX_JSON_BYTES = 16_000_000
MAX_NUMBER = 65_536
"""Of layers, heads, units or frames: fifty times what the largest AST has, and what a list of all tensors still fits for."""
MODEL_TYPE = "audio-spectrogram-transformer"
_NUMBERS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
    "frequency_stride": 10,
    "time_stride": 10,
    "num_mel_bins": 128,
    "max_length": 1024,
}
"""transformers' own defaults for what ``config.json`` leaves out. Source: its ASTConfig."""


@dataclass(frozen=True, slots=True)
class Config:
    """A ``config.json`` that has been checked to describe an AST."""

    document: dict[str, object]
    numbers: dict[str, int]
    layer_norm_eps: float
    has_qkv_bias: bool

    @property
    def problem_type(self) -> object:
        """What kind of labels the head was trained with, where it says so."""
        return self.document.get("problem_type")

    def architecture(self, num_labels: int) -> Architecture:
        """Return the numbers, for a head of this size."""
        numbers = self.numbers
        return Architecture(
            hidden_size=numbers["hidden_size"],
            num_layers=numbers["num_hidden_layers"],
            num_heads=numbers["num_attention_heads"],
            mlp_size=numbers["intermediate_size"],
            patch_size=numbers["patch_size"],
            frequency_stride=numbers["frequency_stride"],
            time_stride=numbers["time_stride"],
            num_mel_bins=numbers["num_mel_bins"],
            max_length=numbers["max_length"],
            num_labels=num_labels,
            has_qkv_bias=self.has_qkv_bias,
            layer_norm_eps=self.layer_norm_eps,
        )


def _read_json(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path.name} has more than {MAX_JSON_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent.name} holds no {path.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} cannot be read as JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path.name} holds a {type(document).__name__}, expected an object")
    return document


def read_config(folder: Path) -> Config:
    """Read ``config.json``.

    Raises:
        CheckpointError: It is missing or no JSON, or describes another architecture than AST.
    """
    document = _read_json(folder / "config.json")
    if document.get("model_type") != MODEL_TYPE:
        raise CheckpointError(f"the checkpoint is of architecture {document.get('model_type')!r}, expected {MODEL_TYPE!r}")
    if document.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"hidden_act is {document['hidden_act']!r}, only 'gelu' can be exported")
    numbers = {}
    for name, default in _NUMBERS.items():
        value = document.get(name, default)
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NUMBER:
            raise CheckpointError(f"config.json: {name} is {value!r}, expected an integer from 1 to {MAX_NUMBER}")
        numbers[name] = value
    if numbers["hidden_size"] % numbers["num_attention_heads"]:
        raise CheckpointError(
            f"config.json: hidden_size {numbers['hidden_size']} is no multiple of {numbers['num_attention_heads']} heads"
        )
    if min(numbers["max_length"], numbers["num_mel_bins"]) < numbers["patch_size"]:
        raise CheckpointError("config.json: the input is smaller than one patch")
    eps = document.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, int | float):
        raise CheckpointError(f"config.json: layer_norm_eps is {eps!r}, expected a number")
    return Config(document, numbers, float(eps), bool(document.get("qkv_bias", True)))


def read_labels_of_config(config: Config) -> tuple[str, ...]:
    """Return the labels that ``config.json`` lists.

    Raises:
        CheckpointError: It lists none, or their ids are not 0, 1, 2, ...
    """
    id2label = config.document.get("id2label")
    if not isinstance(id2label, dict):
        raise CheckpointError("config.json lists no labels (id2label): give them with --labels FILE")
    return check_labels(order_labels(id2label, "config.json"), "config.json")


def read_features(folder: Path, architecture: Architecture, mean: float | None, std: float | None) -> Features:
    """Read the normalisation from ``preprocessor_config.json``; what the caller gives wins.

    Raises:
        CheckpointError: The file is missing and the caller did not give both numbers, or it contradicts the network.
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file() and mean is not None and std is not None:
        return Features(mean, std)
    document = _read_json(path)
    expected = {
        "sampling_rate": SAMPLE_RATE,
        "num_mel_bins": architecture.num_mel_bins,
        "max_length": architecture.max_length,
    }
    for name, want in expected.items():
        have = document.get(name, want)
        if have != want:
            raise CheckpointError(f"preprocessor_config.json: {name} is {have!r}, expected {want}")
    if document.get("do_normalize", True) is False:
        return Features(0.0, 0.5)
    default = Features()
    numbers = [
        document.get("mean", default.mean) if mean is None else mean,
        document.get("std", default.std) if std is None else std,
    ]
    if not all(isinstance(number, int | float) for number in numbers) or not numbers[1]:
        raise CheckpointError(f"preprocessor_config.json: mean and std are {numbers[0]!r} and {numbers[1]!r}, expected numbers")
    return Features(float(str(numbers[0])), float(str(numbers[1])))


@dataclass(frozen=True, slots=True)
class Card:
    """A checkpoint's model card: its text without the front matter, and the licence that this names."""

    text: str | None
    licence: str | None


def read_card(folder: Path) -> Card:
    """Read ``README.md``, where there is one that can be read."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return Card(None, None)
    front = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    if not front:
        return Card(text, None)
    line = re.search(r"^license:\s*(.+)$", front[1], flags=re.MULTILINE)
    return Card(text[front.end() :], line[1].strip().strip("\"'") if line else None)
