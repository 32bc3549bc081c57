"""Graphs of a few hundred bytes, with the inputs and outputs of a real one, that take any amount of memory or time."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.bundles import build_model

TERABYTE = 2**40


def _add_to_logits(model: onnx.ModelProto, *nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """Have nodes make `extra`, a scalar that is added to the logits, so that it is computed."""
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    cast = next(node for node in model.graph.node if node.output[0] == "logits")
    cast.output[0] = "logits_alone"
    model.graph.node.extend([*nodes, helper.make_node("Add", ["logits_alone", "extra"], ["logits"])])
    return model


def with_huge_constant() -> onnx.ModelProto:
    """A terabyte of zeros, which onnxruntime makes when it loads the graph."""
    return _add_to_logits(
        build_model(),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["extra"], keepdims=0),
        size=np.array([TERABYTE // 4], np.int64),
    )


def with_huge_tensor_when_run() -> onnx.ModelProto:
    """A terabyte that depends on the input, so that it is made only when the graph runs."""
    return _add_to_logits(
        build_model(),
        helper.make_node("ReduceSum", ["embedding"], ["sum"], keepdims=0),
        helper.make_node("Expand", ["sum", "size"], ["copies"]),
        helper.make_node("ReduceMean", ["copies"], ["extra"], keepdims=0),
        size=np.array([TERABYTE // 4], np.int64),
    )


def with_many_tensors_when_run() -> onnx.ModelProto:
    """Tensors of 64 MB, of which each alone is allowed and all are needed at once."""
    names = [f"copies{index}" for index in range(16)]
    return _add_to_logits(
        build_model(),
        helper.make_node("ReduceSum", ["embedding"], ["sum"], keepdims=0),
        *(helper.make_node("Expand", ["sum", f"size{index}"], [name]) for index, name in enumerate(names)),
        helper.make_node("Concat", names, ["all"], axis=0),
        helper.make_node("ReduceMean", ["all"], ["extra"], keepdims=0),
        **{f"size{index}": np.array([16_000_000 + index], np.int64) for index in range(16)},
    )


def with_endless_loop() -> onnx.ModelProto:
    turn = helper.make_graph(
        [helper.make_node("Identity", ["condition"], ["again"]), helper.make_node("Cos", ["value"], ["next"])],
        "turn",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    return _add_to_logits(
        build_model(),
        helper.make_node("ReduceSum", ["embedding"], ["sum"], keepdims=0),
        helper.make_node("Loop", ["turns", "true", "sum"], ["extra"], body=turn),
        turns=np.array(2**62, np.int64),
        true=np.array(True),
    )
