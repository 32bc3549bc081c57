import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.precision import MIN_HALF_ELEMENTS, store_half


def make_model(**weights: np.ndarray) -> onnx.ModelProto:
    names = list(weights)
    nodes = [helper.make_node("Sum", ["x", *names], ["y"])]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024]) for name in ("x", "y")]
    graph = helper.make_graph(
        nodes, "g", value[:1], value[1:], [numpy_helper.from_array(tensor, name) for name, tensor in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_only_what_float16_holds_exactly_is_stored_so() -> None:
    exact = np.arange(1024, dtype=np.float32) / 8
    model = store_half(
        make_model(
            exact=exact,
            inexact=exact + np.float32(1e-6),
            overflowing=exact * 1e4,
            small=np.ones(MIN_HALF_ELEMENTS - 1, np.float32),
        )
    )
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types == {
        "exact.float16": TensorProto.FLOAT16,
        "inexact": TensorProto.FLOAT,
        "overflowing": TensorProto.FLOAT,
        "small": TensorProto.FLOAT,
    }
    onnx.checker.check_model(model)


def test_the_cast_gives_back_every_bit() -> None:
    exact = (np.arange(1024, dtype=np.float32) - 500) / 16
    model = store_half(make_model(exact=exact))
    result = ReferenceEvaluator(model).run(None, {"x": np.zeros(1024, np.float32)})[0]
    assert np.array_equal(result, exact)


def test_a_model_without_such_tensors_is_left_as_it_is() -> None:
    model = make_model(inexact=np.full(1024, 0.1, np.float32))
    before = model.SerializeToString()
    assert store_half(model).SerializeToString() == before
