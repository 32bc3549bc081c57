import os
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from export.errors import CheckpointError
from export.weights import check_tensors, read_tensors

TENSORS = {"a": torch.ones(2, 3), "b": torch.zeros(4)}
SHAPES = {"a": (2, 3), "b": (4,)}


class Malice:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t}, lambda t: {"epoch": 3, "model": t}])
def test_tensors_are_found_inside_what_training_scripts_save(tmp_path: Path, wrap: object) -> None:
    path = tmp_path / "a.pth"
    torch.save(wrap({f"module.{name}": tensor for name, tensor in TENSORS.items()}), path)
    assert read_tensors(path).keys() == TENSORS.keys()


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "a.pth", tmp_path / "trace"
    torch.save({"a": torch.ones(1), "b": Malice(trace)}, path)
    with pytest.raises(CheckpointError, match=r"a\.pth holds pickled code"):
        read_tensors(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("keep", [0, 7, 60, -5])
def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path, name: str, keep: int) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(TENSORS, path)
    else:
        safetensors.torch.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in plain.infolist():
            bomb.writestr(member.filename, plain.read(member))
    with pytest.raises(CheckpointError, match=r"bomb\.pth has \d+ bytes and unpacks to \d+"):
        read_tensors(tmp_path / "bomb.pth")


def test_a_tensor_that_claims_more_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="'a' claims 4000000000000 bytes"):
        read_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "head",
    [
        b'{"a":{"dtype":"F32","shape":[1048576,1048576],"data_offsets":[0,4398046511104]}}',
        b'{"a":{"dtype":"F32","shape":[1048576,1048576],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,4]}}',
    ],
)
def test_a_safetensors_head_that_claims_terabytes_is_refused(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(CheckpointError, match=r"a\.safetensors is truncated or no safetensors file"):
        read_tensors(tmp_path / "a.safetensors")


def test_a_safetensors_head_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=r"a\.safetensors is truncated or no safetensors file"):
        read_tensors(tmp_path / "a.safetensors")


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "steps": 7}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="'steps' is a int"):
        read_tensors(tmp_path / "a.pth")
    torch.save([torch.ones(1)], tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_tensors(tmp_path / "b.pth")


def test_the_right_tensors_pass() -> None:
    check_tensors(TENSORS, SHAPES)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": TENSORS["a"]}, "lacks b"),
        (TENSORS | {"c": torch.zeros(1)}, "holds c"),
        (TENSORS | {name: torch.zeros(1) for name in "cdefg"}, "c, d, e and 2 more"),
        (TENSORS | {"b": torch.zeros(5)}, r"b has shape \(5,\)"),
        (TENSORS | {"b": torch.zeros(4, dtype=torch.int64)}, "b is of type torch.int64"),
        (TENSORS | {"b": torch.tensor([0.0, float("nan"), 0.0, 0.0])}, "b holds NaN or infinity"),
        (TENSORS | {"b": torch.tensor([0.0, float("inf"), 0.0, 0.0])}, "b holds NaN or infinity"),
    ],
)
def test_wrong_tensors_are_refused_by_name(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_tensors(tensors, SHAPES)
