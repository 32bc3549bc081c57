"""The same graph in other number formats."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError

HALF_SUFFIX = ".float16"
"""Of the name of a tensor that is stored so."""
MIN_HALF_ELEMENTS = 1024
"""Smaller tensors are not worth a Cast."""
_FRONTEND_PRODUCTS = 3
"""Cosines, sines and mel filters."""


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store as float16, and cast back at load, every float32 tensor that float16 holds exactly.

    Checkpoints are often float16: then this halves the file and changes no number. onnxruntime folds the casts when it
    creates the session (0.1 s for tiny), so the speed is that of float32 (tiny: 21.2 ms a window against 21.5). A tensor
    that float16 cannot hold stays.

    Args:
        model: A float32 graph; it is changed in place.

    Returns:
        The same model.
    """
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < MIN_HALF_ELEMENTS or not np.array_equal(half.astype(np.float32), values):
            continue
        stored = tensor.name + HALF_SUFFIX
        casts.append(helper.make_node("Cast", [stored], [tensor.name], name=f"{tensor.name}.cast", to=TensorProto.FLOAT))
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(half, stored))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with 8-bit products: weights per channel, activations at run time.

    The products of the front end stay float32 (quantising the mel filters alone moves probabilities by 0.7), and so does
    the head, one row a window.

    Args:
        model: The float32 graph; it is not changed.

    Raises:
        ExportError: The front end's products were not found, so that they could not be left out.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    frontend = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and any(name.startswith("frontend.") for name in node.input)
    ]
    # The quantiser turns a Gemm into a MatMul of this name before it chooses.
    head = [f"{node.name}_MatMul" for node in model.graph.node if node.op_type == "Gemm"]
    if len(frontend) != _FRONTEND_PRODUCTS:
        raise ExportError(f"the graph has {len(frontend)} products in its front end, expected {_FRONTEND_PRODUCTS}")
    with tempfile.TemporaryDirectory(prefix="sonotag-int8-") as folder, _quiet():
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            path,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=[*frontend, *head],
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the advice to pre-process the model: what it would fuse, the network has already written fused."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
