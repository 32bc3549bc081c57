from __future__ import annotations

import logging
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import ProviderError
from service.inference.providers import (
    CUDA_OPTIONS,
    choose_provider,
    create_session,
    cuda_options,
    find_cuda_libraries,
    find_obstacle,
    has_byte_products,
    has_nvidia_device,
)
from tests.support.bundles import build_model


@pytest.fixture(scope="module")
def obstacle() -> str | None:
    return find_obstacle("cuda")


def test_the_cpu_is_taken_when_it_is_asked_for() -> None:
    assert choose_provider("cpu") == "cpu"


def test_auto_takes_cuda_exactly_where_a_session_gets_it(obstacle: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert choose_provider("auto") == ("cuda" if obstacle is None else "cpu")
    is_pity = obstacle is not None and has_nvidia_device()
    assert bool(caplog.records) == is_pity


def test_cuda_that_cannot_be_had_is_an_error_that_says_why(obstacle: str | None) -> None:
    if obstacle is None:
        assert choose_provider("cuda") == "cuda"
        return
    assert len(obstacle) > 10
    with pytest.raises(ProviderError) as caught:
        choose_provider("cuda")
    assert obstacle in str(caught.value)
    assert "SONOTAG_PROVIDER" in str(caught.value)


def test_the_choice_is_made_without_a_word_on_stdout_or_stderr() -> None:
    code = "from service.inference.providers import choose_provider; choose_provider('auto')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    said = done.stdout + "".join(line for line in done.stderr.splitlines() if "this machine has an NVIDIA device" not in line)
    assert said == ""


def test_a_session_on_the_cpu_is_on_the_cpu() -> None:
    session = create_session(build_model().SerializeToString(), "cpu", num_threads=1)
    assert session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags : fpu AVX_VNNI\n", True),
        ("Features\t: fp asimd asimddp\n", True),
        ("model name : avx_vnni\nflags : fpu avx2 avx512f\n", False),
        ("", False),
    ],
)
def test_a_cpu_says_whether_it_has_products_of_bytes(text: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_byte_products(tmp_path / "cpuinfo") is expected


def test_a_session_on_a_gpu_has_its_part_of_the_memory_and_no_limit_where_none_is_given() -> None:
    assert cuda_options(cuda_graphs=False, arena_bytes=None) == CUDA_OPTIONS
    assert cuda_options(cuda_graphs=True, arena_bytes=2**31) == CUDA_OPTIONS | {
        "enable_cuda_graph": "1",
        "gpu_mem_limit": "2147483648",
    }


def test_where_the_cpu_cannot_be_asked_its_kind_decides(tmp_path: Path) -> None:
    assert has_byte_products(tmp_path / "missing") is (platform.machine() in ("arm64", "aarch64"))


def test_cuda_libraries_are_found_wherever_python_finds_their_packages(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for file in (
        *("first/cudnn/lib/libcudnn.so.9", "first/cudnn/lib/libcudnn_ops.so.9", "first/cu13/lib/libcusparse.so.12"),
        *("second/cu13/lib/libcublas.so.13", "second/cu13/lib/libcublasLt.so.13", "second/cu13/lib/libcudart.so.13"),
        *("second/cudnn/lib/libcudnn.so.9", "second/cu13/lib/libcudart_static.a", "second/cu13/lib/libnvrtc.alt.so.13"),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = [str(library.relative_to(tmp_path)) for library in find_cuda_libraries([first, second, tmp_path / "none"])]
    assert found == [
        *("second/cu13/lib/libcublasLt.so.13", "second/cu13/lib/libcublas.so.13"),
        *("second/cu13/lib/libcudart.so.13", "first/cudnn/lib/libcudnn.so.9"),
    ]
