"""Reading tensors from a file that nobody has to trust."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from export.errors import CheckpointError
from export.network import Weights

_WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts put the tensors."""


def read_tensors(path: Path) -> Weights:
    """Read the tensors of a safetensors or torch file, running none of the code that a pickle may hold.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote (``.bin``, ``.pt``, ``.pth``).

    Returns:
        Tensors by the names that the file gives them, without the ``module.`` of a parallel training run.

    Raises:
        CheckpointError: It is truncated, holds anything but tensors, or cannot be read.
    """
    num_bytes = path.stat().st_size
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    tensors = _unwrap(loaded)
    named: Weights = {}
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path.name}: {str(name)[:80]!r} is a {type(value).__name__}, expected a tensor")
        if value.nbytes > num_bytes:  # a tensor of strides 0, which becomes what it claims as soon as something is computed
            raise CheckpointError(f"{path.name}: {name[:80]!r} claims {value.nbytes} bytes, the file has {num_bytes}")
        named[name.removeprefix("module.")] = value.detach()
    return named


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path.name} is truncated or no safetensors file: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or error}") from error


def _read_torch(path: Path) -> object:
    _check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} holds pickled code or objects besides tensors, or is damaged; only tensors are read"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path.name} is truncated or no torch file: {first_line[:200]}") from error


def _check_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: torch writes them unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return  # the older format, or none, which torch says
    if claimed > path.stat().st_size:
        raise CheckpointError(
            f"{path.name} has {path.stat().st_size} bytes and unpacks to {claimed}: torch writes no such file"
        )


def _unwrap(loaded: object) -> Mapping[object, object]:
    for _ in range(2):
        inner = next((loaded[key] for key in _WRAPPERS if key in loaded), None) if isinstance(loaded, Mapping) else None
        if not isinstance(inner, Mapping):
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"the file holds a {type(loaded).__name__}, expected tensors by name")
    return loaded


def check_tensors(tensors: Weights, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the tensors are exactly those of the architecture, and finite.

    Args:
        tensors: By their names on the hub.
        expected: The shape of every one that must be there.

    Raises:
        CheckpointError: One is missing, extra, of another shape or type, or holds NaN or infinity.
    """
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise CheckpointError(f"the checkpoint lacks {_some(missing)}")
    if extra:
        raise CheckpointError(f"the checkpoint holds {_some(extra)}, which an Audio Spectrogram Transformer does not have")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}, the configuration asks for {shape}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name} is of type {tensor.dtype}, expected floating point")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} holds NaN or infinity")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
