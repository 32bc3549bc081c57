"""The graphs of the trial of 8-bit products: onnx's own evaluator runs them where there is no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bench.gpu.float8 import (
    MAX_ERROR,
    MICROSOFT,
    Weights,
    make_float8_graph,
    make_half_graph,
    make_weights,
    relative_error,
    run_in_float32,
)
from service.inference.runner import FloatArray


class GemmFloat8(OpRun):
    """As onnxruntime's: the product of two matrices in 8 bits and their scales, the second one transposed."""

    op_domain = MICROSOFT

    def _run(self, a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, transB: int = 0, dtype: int = 1) -> tuple[Any]:  # noqa: N803
        assert (transB, dtype, c) == (1, onnx.TensorProto.FLOAT16, None)
        product = a.astype(np.float32) @ b.astype(np.float32).T * a_scale * b_scale
        return (product.astype(np.float16),)


class BiasGelu(OpRun):
    op_domain = MICROSOFT

    def _run(self, x: Any, bias: Any) -> tuple[Any]:
        value = torch.nn.functional.gelu(torch.from_numpy((x + bias).astype(np.float32)))
        return (value.numpy().astype(np.float16),)


@pytest.fixture(scope="module")
def values() -> FloatArray:
    return np.random.default_rng(1).normal(0, 1, (64, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def weights(values: FloatArray) -> Weights:
    return make_weights(32, 128, values)


def run(graph: bytes, values: FloatArray) -> FloatArray:
    evaluator = ReferenceEvaluator(onnx.load_from_string(graph), new_ops=[GemmFloat8, BiasGelu])
    return np.asarray(evaluator.run(None, {"x": values.astype(np.float16)})[0], np.float32)


def test_both_graphs_compute_the_mlp_and_8_bits_are_coarser(values: FloatArray, weights: Weights) -> None:
    expected = run_in_float32(weights, values)
    half, float8 = (
        relative_error(run(graph, values), expected) for graph in (make_half_graph(weights), make_float8_graph(weights))
    )
    assert half < 0.002
    assert 0.01 < float8 < MAX_ERROR


def test_onnxruntime_takes_the_graph_and_lacks_nothing_but_a_gpu_for_it(weights: Weights) -> None:
    """Its checks of names and types pass; then it finds no kernel of the operator for the CPU."""
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED.*GemmFloat8"):
        onnxruntime.InferenceSession(make_float8_graph(weights), providers=["CPUExecutionProvider"])
