from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.precision import store_half
from export.sharing import ALIGNMENT, derive_quantized, share_weights

Model = onnx.ModelProto


def linear(**weights: np.ndarray) -> Model:
    """A chain of products."""
    names = list(weights)
    steps = ["x", *(f"after.{name}" for name in names)]
    nodes = [helper.make_node("MatMul", [steps[i], name], [steps[i + 1]]) for i, name in enumerate(names)]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weights[names[0]].shape[0]])],
        [helper.make_tensor_value_info(steps[-1], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def half_matrix(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float16).astype(np.float32)


def quantized(weight: np.ndarray, change: int = 0) -> Model:
    """What the quantiser writes, for one product."""
    scale = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    values = np.rint(weight / scale).astype(np.int8)
    values[0, 0] += change
    constants = {"w_quantized": values, "w_scale": scale, "w_zero_point": np.zeros(len(scale), np.int8)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w_quantized", "z", "w_zero_point"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "w_scale"], ["both"]),
        helper.make_node("Mul", ["single", "both"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: Model | Path, x: np.ndarray) -> np.ndarray:
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_equal_weights_are_stored_once_and_the_graphs_compute_what_they_did(tmp_path: Path) -> None:
    first, second, small = half_matrix(128, 96, 1), half_matrix(96, 128, 2), half_matrix(128, 4, 3)
    models = [linear(a=first, b=second, c=small), linear(d=first, e=second)]
    x = np.random.default_rng(0).normal(size=(1, 128)).astype(np.float32)
    before = [run(model, x) for model in models]
    share_weights(models, tmp_path)
    for index, model in enumerate(models):
        onnx.save_model(model, tmp_path / f"{index}.onnx")
        np.testing.assert_array_equal(run(tmp_path / f"{index}.onnx", x), before[index])
    assert ALIGNMENT < (tmp_path / "weights.bin").stat().st_size <= first.nbytes + second.nbytes + ALIGNMENT
    inside = {tensor.name: tensor.data_location for tensor in models[0].graph.initializer}
    assert inside == {"a": TensorProto.EXTERNAL, "b": TensorProto.EXTERNAL, "c": TensorProto.DEFAULT}


@pytest.mark.parametrize("is_half", [True, False])
def test_eight_bit_weights_are_computed_from_those_of_the_other_graph(is_half: bool) -> None:
    weight = half_matrix(128, 96, 1)
    source = store_half(linear(w=weight)) if is_half else linear(w=weight)
    graph = quantized(weight)
    x = np.random.default_rng(0).normal(size=(1, 128)).astype(np.float32)
    before = run(graph, x)
    derived = derive_quantized(graph, source)
    kinds = {tensor.name: tensor.data_type for tensor in derived.graph.initializer}
    assert TensorProto.INT8 not in {kinds[name] for name in kinds if name != "w_zero_point"}
    assert ("w.float16" in kinds) == is_half
    np.testing.assert_array_equal(run(derived, x), before)


def test_eight_bit_weights_that_do_not_follow_from_the_others_stay() -> None:
    weight = half_matrix(128, 96, 1)
    derived = derive_quantized(quantized(weight, change=1), linear(w=weight))
    assert {"w_quantized", "w_scale", "w_zero_point"} == {tensor.name for tensor in derived.graph.initializer}
    other = derive_quantized(quantized(weight), linear(other=weight))
    assert "w_quantized" in {tensor.name for tensor in other.graph.initializer}
