"""What is found out before minutes are spent; on a machine with a GPU the whole of it runs."""

from __future__ import annotations

import pytest

from bench.gpu.machine import find_missing, look, to_markdown
from service.errors import StartError
from service.inference.providers import find_obstacle


def test_a_machine_is_described_and_can_serve() -> None:
    found = look("cpu")
    assert found.serving == ""
    assert found.cores >= 1
    assert str(found).startswith("No GPU; ")
    assert "onnxruntime 1." in to_markdown(found)


def test_a_missing_package_is_named() -> None:
    assert find_missing(("json", "no_such_module")) == "No module named 'no_such_module'"


@pytest.mark.skipif(find_obstacle("cuda") is None, reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured_on_one() -> None:
    with pytest.raises(StartError, match=r"finds no GPU here|cannot use CUDA here"):
        look("cuda")
