from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.errors import BundleError
from service.inference.bundle import hash_file, open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.untrusted import MAX_DEPTH, check_graph_file
from tests.support.bundles import build_model, write_bundle


def with_initializer(path: str) -> onnx.ModelProto:
    model = build_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path)
    return model


def with_constant(path: str) -> onnx.ModelProto:
    """A tensor in an attribute of a node of a graph in an attribute of a node."""
    model = build_model()
    value = TensorProto(dims=[1], data_type=TensorProto.FLOAT)
    value.external_data.add(key="location", value=path)
    inner = helper.make_graph([helper.make_node("Constant", [], ["x"], value=value)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["valid"], ["y"], then_branch=inner, else_branch=inner))
    return model


def with_function(path: str) -> onnx.ModelProto:
    model = build_model()
    value = TensorProto(dims=[1], data_type=TensorProto.FLOAT)
    value.external_data.add(key="location", value=path)
    constant = helper.make_node("Constant", [], ["x"], value=value)
    model.functions.append(helper.make_function("own", "f", [], ["x"], [constant], [helper.make_opsetid("", 20)]))
    return model


@pytest.mark.parametrize("path", ["../secret", "/etc/hostname", "beside.bin"])
@pytest.mark.parametrize("make", [with_initializer, with_constant, with_function])
def test_a_graph_that_reads_other_files_is_refused(make: Callable[[str], onnx.ModelProto], path: str, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", model=make(path))
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx names other files for its weights"):
        open_bundle(tmp_path / "b")


def with_shared_weights(folder: Path, **place: str) -> Path:
    """Write a bundle whose large matrix lies in its file of weights."""
    model = build_model()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "first")
    content = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": "weights.bin", "offset": "64", "length": str(len(content))} | place
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(64) + content)
    (folder.parent / "secret").write_bytes(bytes(64) + content)
    sha256 = hash_file(folder / "weights.bin")
    return write_bundle(folder, model=model, manifest=lambda m: m.update(format_version=3, weights_sha256=sha256))


def test_weights_in_the_file_of_the_bundle_are_read_from_there(tmp_path: Path) -> None:
    runner = OnnxRunner.open(open_bundle(with_shared_weights(tmp_path / "b")), provider="cpu")  # which checks golden scores
    runner.close()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ({"location": "../secret"}, "names other files"),
        ({"location": "./weights.bin"}, "names other files"),
        ({"location": "bundle.json"}, "names other files"),
        ({"offset": "65"}, r"past the end of weights\.bin"),
        ({"length": "99999999999999999999"}, r"past the end of weights\.bin"),
        ({"offset": "-4"}, "no ONNX model"),
        ({"length": ""}, "no ONNX model"),
    ],
)
def test_weights_anywhere_else_are_refused(place: dict[str, str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=reason):
        open_bundle(with_shared_weights(tmp_path / "b", **place))


def test_shared_weights_are_held_to_their_hash_and_have_to_be_there(tmp_path: Path) -> None:
    folder = with_shared_weights(tmp_path / "b")
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"altered: weights\.bin"):
        open_bundle(folder)
    (folder / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"incomplete: weights\.bin is missing"):
        open_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"\x3a", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x0b", b"\x3a\x05abc"])
def test_what_is_no_graph_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx is no ONNX model"):
        check_graph_file(tmp_path / "model.onnx")


def test_a_graph_in_a_graph_without_end_is_refused(tmp_path: Path) -> None:
    message = b""
    for tag in (0x32, 0x2A, 0x0A) * MAX_DEPTH:  # a graph in an attribute of a node of a graph
        message = bytes([tag]) + varint(len(message)) + message
    (tmp_path / "model.onnx").write_bytes(b"\x3a" + varint(len(message)) + message)
    with pytest.raises(BundleError, match="nests graphs"):
        check_graph_file(tmp_path / "model.onnx")


def varint(value: int) -> bytes:
    parts = [value >> shift & 0x7F | 0x80 for shift in range(0, 28, 7)]
    parts[-1] &= 0x7F
    return bytes(parts)


def test_a_graph_that_is_larger_than_its_parameters_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    path = folder / "model.fp32.onnx"
    before = hash_file(path)
    with path.open("ab") as file:
        file.truncate(200 * 1024**2)
    manifest = folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace(before, hash_file(path)))
    with pytest.raises(BundleError, match=r"has 209715200 bytes, its [0-9]+ parameters take at most"):
        open_bundle(folder)


@pytest.mark.parametrize(("parameter_bytes", "is_taken"), [(7, True), (9, False)])
def test_the_weights_that_graphs_share_may_be_those_of_each_precision(
    parameter_bytes: int, is_taken: bool, tmp_path: Path
) -> None:
    num_parameters = 40_000_000
    folder = tmp_path / "b"
    folder.mkdir()
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(parameter_bytes * num_parameters)

    def claim(document: dict[str, Any]) -> None:
        document.update(format_version=3, weights_sha256=hash_file(folder / "weights.bin"))
        document["architecture"]["num_parameters"] = num_parameters

    write_bundle(folder, manifest=claim)
    if is_taken:
        open_bundle(folder)
    else:
        with pytest.raises(BundleError, match=r"weights\.bin has 360000000 bytes"):
            open_bundle(folder)


@pytest.mark.parametrize("name", ["bundle.json", "golden.npz", "model.fp32.onnx"])
def test_a_link_that_leads_out_of_the_bundle_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(BundleError, match="leads outside"):
        open_bundle(folder)


def test_links_inside_of_a_bundle_are_followed(tmp_path: Path) -> None:
    """As Kubernetes lays out what it mounts."""
    folder = write_bundle(tmp_path / "b")
    (folder / "..data").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(folder / "..data" / path.name)
        path.symlink_to(Path("..data") / path.name)
    open_bundle(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/hostname", "a/b", "..", ""])
def test_a_manifest_names_files_and_no_paths(name: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", manifest=lambda document: document["precisions"]["fp32"].update(file=name))
    with pytest.raises(BundleError, match="file: string should match"):
        open_bundle(folder)


def test_a_manifest_of_absurd_numbers_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", manifest=lambda document: document.update(window_samples=10**15))
    with pytest.raises(BundleError, match="window longer than 600 s"):
        open_bundle(folder)


@pytest.mark.parametrize("size", [0, 10**12])
def test_a_manifest_of_an_absurd_embedding_is_refused(size: int, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", manifest=lambda document: document["architecture"].update(hidden_size=size))
    with pytest.raises(BundleError, match="hidden_size"):
        open_bundle(folder)


def npy(shape: tuple[int, ...], dtype: str, content: bytes) -> bytes:
    head = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + content


@pytest.mark.parametrize(
    "waveform",
    [
        npy((2**40, 1600), "<i2", b""),
        npy((1,), "|O", b"cos\nsystem\n(S'true'\ntR."),
        npy((2**63, 2**63), "<i2", b""),
        b"\x93NUMPY\x03\x00" + bytes(100),
        b"no array",
        npy((5,), "<i2", bytes(500 * 1024**2)),
        npy((256, 1_600_000), "<i2", b""),
    ],
    ids=["a claim", "a pickle", "an overflow", "another version", "no array", "a bomb", "too many long ones"],
)
def test_golden_arrays_that_unpack_to_too_much_are_refused(waveform: bytes, tmp_path: Path) -> None:
    # A window so long that 256 of them are more than the service unpacks, though each of its numbers is allowed.
    folder = write_bundle(tmp_path / "b", manifest=lambda document: document.update(window_samples=1_600_000))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("waveform.npy", waveform)
        for name, array in (("lengths", np.zeros(1, np.int64)), ("scores", np.zeros((1, 3), np.float32))):
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
    before = hash_file(folder / "golden.npz")
    (folder / "golden.npz").write_bytes(packed.getvalue())
    manifest = folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace(before, hash_file(folder / "golden.npz")))
    bundle = open_bundle(folder)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"golden\.npz cannot be read"):
            bundle.load_golden()
        assert tracemalloc.get_traced_memory()[1] < 50 * 1024**2
    finally:
        tracemalloc.stop()
