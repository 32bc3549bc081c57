from __future__ import annotations

import pytest

from service.inference.reason import read_reason

PLACE = (
    "/onnxruntime_src/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, onnxruntime::common::Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError] "
)
NODE = "Non-zero status code returned while running MatMul node. Status Message: "


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "RuntimeError"),
        ("  one \ntwo", "one"),
        ("x" * 400, "x" * 300),
        (f"{PLACE}{PLACE}CUDA failure 35: the driver is old ; GPU=-1 \n\n", "CUDA failure 35: the driver is old ; GPU=-1"),
        (f"{NODE}{PLACE}CUBLAS failure 13: no", f"{NODE}CUBLAS failure 13: no"),
        ("/models/a.cc:1 is no model", "/models/a.cc:1 is no model"),
    ],
)
def test_the_first_line_is_said_without_what_hides_the_failure(said: str, reason: str) -> None:
    assert read_reason(RuntimeError(said)) == reason
