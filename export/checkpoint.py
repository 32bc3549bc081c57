"""A checkpoint: weights, the numbers that describe them, and where they came from."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from export.architecture import Architecture, expected_shapes, seconds_to_frames
from export.errors import CheckpointError
from export.folder import read_card, read_config, read_features, read_labels_of_config
from export.frontend import Features
from export.labels import Activation, choose_activation, read_labels
from export.names import from_memory, from_original, is_original
from export.network import Weights
from export.original import describe_original
from export.positions import resize_positions
from export.weights import check_tensors, read_tensors
from service.inference.bundle import hash_file

POSITIONS = "audio_spectrogram_transformer.embeddings.position_embeddings"
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_CARD_FILES = ("config.json", "preprocessor_config.json", "README.md")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller says about a checkpoint; None leaves it to the checkpoint.

    Attributes:
        labels: A label file. An original ``.pth`` needs one, since it holds no names.
        activation: What makes scores of logits.
        stride: Frequency and time stride of an original ``.pth``, where its size does not tell.
        max_length: Frames of an original ``.pth``, where its size does not tell.
        mean: Mean of the log-mel in training.
        std: Standard deviation of the log-mel in training.
        licence: The weights' licence.
    """

    labels: Path | None = None
    activation: Activation | None = None
    stride: tuple[int, int] | None = None
    max_length: int | None = None
    mean: float | None = None
    std: float | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All of a checkpoint that an export needs.

    Attributes:
        name: What it is called: the folder, the file's stem or the name on the hub.
        architecture: Its numbers.
        features: Its normalisation of the log-mel.
        labels: Its labels, in the head's order.
        activation: What makes scores of its logits.
        weights: Its tensors by their names on the hub, of the type they were stored in.
        format: Whose files these are.
        sha256: Hash of the file that holds the weights.
        licence: The weights' licence, or ``unknown``.
        card: The text of the checkpoint's own model card, or None.
    """

    name: str
    architecture: Architecture
    features: Features
    labels: tuple[str, ...]
    activation: Activation
    weights: Weights
    format: Literal["transformers", "original"]
    sha256: str
    licence: str
    card: str | None = None

    @property
    def num_parameters(self) -> int:
        """Parameters in all, the head's too."""
        return sum(tensor.numel() for tensor in self.weights.values())

    def with_window(self, seconds: float) -> Checkpoint:
        """Return the same network for windows of another length, its position embeddings cropped or stretched.

        Args:
            seconds: The window must hold at least this much sound; it is rounded up to whole frames of 10 ms.

        Raises:
            CheckpointError: The window is shorter than one patch.
        """
        max_length = seconds_to_frames(seconds)
        if max_length < self.architecture.patch_size:
            raise CheckpointError(
                f"a window of {seconds} s has {max_length} frames, a patch alone needs {self.architecture.patch_size}"
            )
        return self.with_frames(max_length)

    def with_frames(self, max_length: int) -> Checkpoint:
        """Return the same network for windows of so many frames, of a patch or more; see `with_window`."""
        architecture = dataclasses.replace(self.architecture, max_length=max_length)
        positions = resize_positions(self.weights[POSITIONS], self.architecture.grid, architecture.grid[1])
        return dataclasses.replace(self, architecture=architecture, weights=self.weights | {POSITIONS: positions})


def load_checkpoint(source: str, wishes: Wishes | None = None) -> Checkpoint:
    """Load a checkpoint and check that it is whole.

    Args:
        source: A folder in Hugging Face's format, a name on its hub, or the original repository's ``.pth``.
        wishes: What the caller says about it.

    Raises:
        CheckpointError: There is none, or it is not one that can be exported; the message says why.
    """
    wishes = wishes or Wishes()
    path = Path(source)
    if path.is_file():
        return _load_original(path, wishes)
    if path.is_dir():
        return _load_folder(path, path.resolve().name, wishes)
    if _HUB_NAME.fullmatch(source):
        return _load_folder(_download(source), source, wishes)
    raise CheckpointError(f"there is no checkpoint {source!r}: it is no folder, no file and no name on the hub")


def _load_folder(folder: Path, name: str, wishes: Wishes) -> Checkpoint:
    _check_links(folder)
    config, card = read_config(folder), read_card(folder)
    weights_file = next((folder / file for file in _WEIGHT_FILES if (folder / file).is_file()), None)
    if weights_file is None:
        raise CheckpointError(f"{name} holds no weights: expected {' or '.join(_WEIGHT_FILES)}")
    weights = from_memory(read_tensors(weights_file))
    labels = read_labels(wishes.labels) if wishes.labels else read_labels_of_config(config)
    architecture = config.architecture(len(labels))
    _check_head(weights, labels)
    check_tensors(weights, expected_shapes(architecture))
    return Checkpoint(
        name=name,
        architecture=architecture,
        features=read_features(folder, architecture, wishes.mean, wishes.std),
        labels=labels,
        activation=wishes.activation or choose_activation(config.problem_type, labels),
        weights=weights,
        format="transformers",
        sha256=hash_file(weights_file),
        licence=wishes.licence or card.licence or "unknown",
        card=card.text,
    )


def _check_links(folder: Path) -> None:
    """Refuse a folder whose files lie elsewhere: its card would be copied into the bundle, whatever it is.

    The hub's own cache is such a place on purpose: ``snapshots/REVISION`` there holds links to ``blobs``.
    """
    resolved = folder.resolve()
    root = resolved.parents[1] if resolved.parent.name == "snapshots" and (resolved.parents[1] / "blobs").is_dir() else resolved
    for name in (*_WEIGHT_FILES, *_CARD_FILES):
        if not (folder / name).resolve().is_relative_to(root):
            raise CheckpointError(f"{name} leads outside of the checkpoint's folder")


def _load_original(path: Path, wishes: Wishes) -> Checkpoint:
    tensors = read_tensors(path)
    if not is_original(tensors):
        raise CheckpointError(
            f"{path.name} is not the original repository's checkpoint (it has no v.pos_embed); a checkpoint of "
            "transformers is given as its folder"
        )
    if wishes.labels is None:
        raise CheckpointError(f"{path.name} holds no label names: give them with --labels FILE")
    weights = from_original(tensors)
    labels = read_labels(wishes.labels)
    _check_head(weights, labels)
    architecture = describe_original(weights, len(labels), wishes.stride, wishes.max_length)
    check_tensors(weights, expected_shapes(architecture))
    default = Features()
    return Checkpoint(
        name=path.stem,
        architecture=architecture,
        features=Features(
            default.mean if wishes.mean is None else wishes.mean, default.std if wishes.std is None else wishes.std
        ),
        labels=labels,
        activation=wishes.activation or choose_activation(None, labels),
        weights=weights,
        format="original",
        sha256=hash_file(path),
        licence=wishes.licence or "unknown",
    )


def _check_head(weights: Weights, labels: tuple[str, ...]) -> None:
    head = weights.get("classifier.dense.weight")
    if head is not None and head.ndim == 2 and head.shape[0] != len(labels):
        raise CheckpointError(f"the head has {head.shape[0]} outputs, and there are {len(labels)} labels")


def _download(name: str) -> Path:
    import huggingface_hub  # needs a second to import, and only this needs it
    from huggingface_hub import errors

    try:
        safe, pickled = _WEIGHT_FILES
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_CARD_FILES, safe]))
        if not (folder / safe).is_file():
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_CARD_FILES, pickled]))
        return folder
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{name!r} is no folder here and cannot be had from the hub: {first_line[:200]}") from error
