"""What a model file from elsewhere must not do at load: name files outside its folder, or ask for more memory than it brings.

A graph holds no code of its own, and numpy is told to read no pickles; what is left are paths and sizes.
"""

from __future__ import annotations

import math
import mmap
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from service.errors import BundleError

MAX_DEPTH = 64
"""Graphs in attributes of nodes of graphs; a loop in a condition in a loop takes three."""

# Which fields hold messages that may hold tensors, and of which kind those are. Source: onnx.proto3.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor


def find_inside(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder, which may be a link to another place in it, and nowhere else.

    Raises:
        BundleError: It leads outside.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{name} in {folder} leads outside of it: a bundle is one folder")
    return path


def check_graph_file(path: Path, weights: Path | None = None) -> None:
    """Check that an ONNX file brings all its tensors itself, or has them in one file of its bundle.

    onnxruntime would read them from whatever paths it names.

    Args:
        path: The graph.
        weights: The bundle's file of weights; None where it has none.

    Raises:
        BundleError: It names another file, or a place outside of that one, or is no ONNX model.
    """
    try:
        size = None if weights is None else (weights.name, weights.stat().st_size)
        with path.open("rb") as file:
            # Not closed by hand: an error's traceback still holds views of it.
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        _check_message(view, "model", path.name, size, 0)
    except (ValueError, IndexError) as error:  # ValueError: an empty file cannot be mapped
        raise BundleError(f"{path.name} is no ONNX model: it is cut or damaged") from error
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}") from error


def _check_message(message: memoryview, kind: str, name: str, weights: tuple[str, int] | None, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BundleError(f"{name} nests graphs more than {MAX_DEPTH} deep")
    inner = _FIELDS.get(kind, {})
    is_external, place = False, dict[bytes, bytes]()
    for number, value in _read_fields(message):
        if kind == "tensor" and number == _DATA_LOCATION:
            is_external = bool(value)
        elif kind == "tensor" and number == _EXTERNAL_DATA and isinstance(value, memoryview):
            entry = {key: bytes(text) for key, text in _read_fields(value) if isinstance(text, memoryview)}
            place[entry.get(1, b"")] = entry.get(2, b"")
        elif number in inner and isinstance(value, memoryview):
            _check_message(value, inner[number], name, weights, depth + 1)
    if is_external or place:
        _check_place(place, name, weights)


def _check_place(place: Mapping[bytes, bytes], name: str, weights: tuple[str, int] | None) -> None:
    """Refuse a tensor that lies anywhere but in the bundle's file of weights.

    Raises:
        BundleError: It does.
        ValueError: Its place is no number.
    """
    if weights is None or place.get(b"location") != weights[0].encode():
        raise BundleError(f"{name} names other files for its weights (external data) than its bundle's, which are not read")
    begin, length = (place.get(key, b"") for key in (b"offset", b"length"))
    if not begin.isdigit() or not length.isdigit():
        raise ValueError("a place that is no number")
    if int(begin) + int(length) > weights[1]:
        raise BundleError(f"{name} has weights past the end of {weights[0]}, which has {weights[1]} bytes")


def _read_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a protobuf message: its number with an integer, or with the bytes of what has a length.

    Source: protobuf's "Encoding".
    """
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            integer, at = _read_varint(message, at)
            yield number, integer
            continue
        if wire_type == 2:
            length, at = _read_varint(message, at)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if at + length > len(message):
            raise ValueError("a field is longer than its message")
        yield number, message[at : at + length]
        at += length


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("an endless integer")


def load_arrays(file: IO[bytes], max_bytes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Read arrays of an ``.npz``, after a look at how large they say they are.

    Args:
        file: The archive.
        max_bytes: The names to read, and how large each may be.

    Raises:
        ValueError: One is larger, packed or not, or holds objects.
        KeyError: One is missing.
        zipfile.BadZipFile: It is no archive.
    """
    with zipfile.ZipFile(file) as archive:
        for name, limit in max_bytes.items():
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as head:
                version = np.lib.format.read_magic(head)
                read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                if version not in read_header:
                    raise ValueError(f"{name} is of npy version {version}")
                shape, _, dtype = read_header[version](head)
            claimed = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or min(shape, default=0) < 0 or max(claimed, member.file_size - 10_000) > limit:
                raise ValueError(f"{name} has shape {shape} and type {dtype}, which is more than {limit} bytes, or no numbers")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in max_bytes}
