"""Weights that several graphs of a bundle have in common, in one file beside them (ONNX calls it external data)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.precision import HALF_SUFFIX
from service.inference.bundle import WEIGHTS_FILE

MIN_SHARED_BYTES = 16_384
"""Smaller tensors stay in their graphs."""
ALIGNMENT = 4096
"""Of a tensor in the file: a page, so that it can be mapped into memory where it is."""
_QUANTIZED = "_quantized"


def derive_quantized(quantized: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Let a graph compute its 8-bit weights, when it is loaded, from those that another graph of the bundle stores.

    A weight divided by its channel's scale, rounded and cast: onnxruntime does it once, when it creates the session, and the
    8-bit weights need no place in the bundle. A weight for which that does not give exactly what the quantiser gave stays.

    Args:
        quantized: The 8-bit graph; it is changed in place.
        source: The float32 graph, as it is stored.

    Returns:
        The 8-bit graph.
    """
    stored = {tensor.name: tensor for tensor in source.graph.initializer}
    graph = quantized.graph
    own = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for name, tensor in own.items():
        weight = name.removesuffix(_QUANTIZED)
        origin = stored.get(weight + HALF_SUFFIX, stored.get(weight))
        scale, zero = own.get(f"{weight}_scale"), own.get(f"{weight}_zero_point")
        if tensor.data_type != TensorProto.INT8 or origin is None or scale is None or zero is None:
            continue
        ratio = numpy_helper.to_array(origin).astype(np.float32) / numpy_helper.to_array(scale)
        if numpy_helper.to_array(zero).any() or not np.array_equal(np.rint(ratio), numpy_helper.to_array(tensor)):
            continue
        steps = [f"{weight}.{step}" for step in ("single", "ratio", "rounded")]
        nodes += [
            helper.make_node("Cast", [origin.name], [steps[0]], to=TensorProto.FLOAT),
            helper.make_node("Div", [steps[0], scale.name], [steps[1]]),
            helper.make_node("Round", [steps[1]], [steps[2]]),
            helper.make_node("Cast", [steps[2]], [name], to=TensorProto.INT8),
        ]
        graph.initializer.remove(tensor)
        if origin.name not in own:
            graph.initializer.append(origin)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return quantized


def share_weights(models: Iterable[onnx.ModelProto], folder: Path) -> None:
    """Move the large tensors of graphs into one file, equal ones once.

    Args:
        models: The graphs; they are changed in place, and are to be saved in the same folder.
        folder: Where the file is written.
    """
    places: dict[bytes, int] = {}
    with (folder / WEIGHTS_FILE).open("wb") as file:
        for model in models:
            for tensor in model.graph.initializer:
                content = numpy_helper.to_array(tensor).tobytes()
                if len(content) < MIN_SHARED_BYTES:
                    continue
                if content not in places:
                    places[content] = file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
                    file.write(content)
                tensor.ClearField("raw_data")
                tensor.ClearField("float_data")
                tensor.data_location = TensorProto.EXTERNAL
                entries = {"location": WEIGHTS_FILE, "offset": places[content], "length": len(content)}
                for key, value in entries.items():
                    tensor.external_data.add(key=key, value=str(value))
