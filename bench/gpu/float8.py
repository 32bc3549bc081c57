"""The MLP's products of base in 8-bit floating point against float16, on the GPU alone: `python -m bench.gpu.float8`.

onnxruntime has one operator that multiplies in 8 bits whatever the number of rows, ``com.microsoft::GemmFloat8``: a scale for
each matrix, cuBLASLt behind it, a workspace allocated in every call. The two graphs do the same, the first product, bias and
gelu, the second product, for all tokens of a batch; the one in 8 bits rounds its activations, too, which counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

# After torch, which has loaded CUDA's libraries.
import onnxruntime  # isort: skip

from bench.command import run_measurement
from bench.gpu.rates import Rate, measure
from bench.gpu.settings import add_flags
from bench.gpu.subject import Subject, read_subject
from service.errors import StartError
from service.inference.providers import CUDA, create_session
from service.inference.runner import FloatArray

ROWS: Final = 32
LARGEST: Final = 448.0
"""Of float8 e4m3."""
MAX_ERROR: Final = 0.1
"""Root mean square, as a share of the result's: three bits a number leave two or three hundredths in each product."""
LEAST_CAPABILITY: Final = (8, 9)
MICROSOFT: Final = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Weights:
    """Of one MLP, float32: `[hidden, mlp]`, `[mlp]` and `[mlp, hidden]`; and the largest inputs of both products."""

    up: FloatArray
    bias: FloatArray
    down: FloatArray
    largest_input: float
    largest_inner: float


@dataclass(frozen=True, slots=True)
class Float8Speed:
    """What was measured.

    Attributes:
        tokens: Rows of the products.
        half: TFLOP/s of the graph in float16.
        float8: Of the one in 8 bits.
        half_error: Of its result, root mean square, as a share of the result's.
        float8_error: The other's.
    """

    tokens: int
    half: Rate
    float8: Rate
    half_error: float
    float8_error: float

    @property
    def ratio(self) -> float:
        """How many times as fast 8 bits are."""
        return self.float8.median / self.half.median


def make_weights(hidden: int, mlp: int, values: FloatArray) -> Weights:
    """Return random weights, with the largest values that some inputs `[tokens, hidden]` make."""
    generator = np.random.default_rng(11)
    up = generator.normal(0, hidden**-0.5, (hidden, mlp)).astype(np.float32)
    down = generator.normal(0, mlp**-0.5, (mlp, hidden)).astype(np.float32)
    bias = generator.normal(0, 0.1, mlp).astype(np.float32)
    return Weights(up, bias, down, float(np.abs(values).max()), float(np.abs(_activate(values @ up + bias)).max()))


def run_in_float32(weights: Weights, values: FloatArray) -> FloatArray:
    """Return what both graphs are to compute."""
    return np.asarray(_activate(values @ weights.up + weights.bias) @ weights.down, np.float32)


def _activate(values: FloatArray) -> FloatArray:
    activated: FloatArray = torch.nn.functional.gelu(torch.from_numpy(values)).numpy()
    return activated


def make_half_graph(weights: Weights) -> bytes:
    """Return the graph in float16, `x` to `y`."""
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["inner"]),
        helper.make_node("BiasGelu", ["inner", "bias"], ["active"], domain=MICROSOFT),
        helper.make_node("MatMul", ["active", "down"], ["y"]),
    ]
    return _make_graph(nodes, [_half("up", weights.up), _half("bias", weights.bias), _half("down", weights.down)])


def make_float8_graph(weights: Weights) -> bytes:
    """Return the graph in 8 bits, `x` to `y` in float16."""
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True)
    initializers = [_half("bias", weights.bias), zero]
    nodes = []
    for name, source, result in (("up", "x", "inner"), ("down", "active", "y")):
        weight = weights.up if name == "up" else weights.down
        largest = weights.largest_input if name == "up" else weights.largest_inner
        # One number, which is float16 for the one operator and float32 for the other.
        scale = np.float16(largest / LARGEST)
        weight_scale = np.float32(np.abs(weight).max() / LARGEST)
        initializers += [
            numpy_helper.from_array(np.array(scale), f"{name} input scale"),
            numpy_helper.from_array(np.array([scale], np.float32), f"{name} input scale, float32"),
            numpy_helper.from_array(np.array([weight_scale]), f"{name} scale"),
            _float8(name, weight.T / weight_scale),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", [source, f"{name} input scale", "zero"], [f"{name} input"]),
            helper.make_node(
                "GemmFloat8",
                [f"{name} input", name, "", f"{name} input scale, float32", f"{name} scale"],
                [result],
                domain=MICROSOFT,
                transB=1,  # cuBLASLt knows no other
                dtype=TensorProto.FLOAT16,
            ),
        ]
    nodes.insert(2, helper.make_node("BiasGelu", ["inner", "bias"], ["active"], domain=MICROSOFT))
    return _make_graph(nodes, initializers)


def measure_float8(subject: Subject, seconds: float) -> Float8Speed:
    """Check and time both graphs with the sizes of a subject and a batch of `ROWS`.

    Raises:
        StartError: There is no GPU with such products.
        ArithmeticError: A graph computes something else.
    """
    if subject.device != "cuda" or torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        raise StartError("8-bit floating point products need a GPU of the generation of Ada or Hopper, or a newer one")
    net = subject.bundle.manifest.architecture
    grid = [
        (length - net.patch_size) // stride + 1
        for length, stride in ((net.num_mel_bins, net.frequency_stride), (net.max_length, net.time_stride))
    ]
    tokens = ROWS * (grid[0] * grid[1] + 2)
    values = np.random.default_rng(12).normal(0, 1, (tokens, net.hidden_size)).astype(np.float32)
    weights = make_weights(net.hidden_size, net.mlp_size, values)
    expected = run_in_float32(weights, values)
    operations = 4e-12 * tokens * net.hidden_size * net.mlp_size
    rates, errors = [], []
    for graph in (make_half_graph(weights), make_float8_graph(weights)):
        run, read = _bind(graph, values)
        run()
        errors.append(relative_error(read(), expected))
        if not errors[-1] <= MAX_ERROR:
            raise ArithmeticError(f"off by {errors[-1]:.3g} of the result, allowed is {MAX_ERROR:g}")
        rates.append(measure(run, operations, seconds / 20))
    return Float8Speed(tokens, rates[0], rates[1], errors[0], errors[1])


def relative_error(found: FloatArray, expected: FloatArray) -> float:
    """Return the root mean square of the difference, as a share of that of what was expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def _bind(graph: bytes, values: FloatArray) -> tuple[Callable[[], None], Callable[[], FloatArray]]:
    """Return what runs a graph with its input and output on the GPU, and what reads the output."""
    session = create_session(graph, "cuda", num_threads=1)
    if session.get_providers()[0] != CUDA:
        raise StartError("onnxruntime cannot use cuda here")
    value = onnxruntime.OrtValue.ortvalue_from_numpy(values.astype(np.float16), "cuda", 0)
    result = onnxruntime.OrtValue.ortvalue_from_shape_and_type(values.shape, np.float16, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", value)
    binding.bind_ortvalue_output("y", result)

    def run() -> None:
        session.run_with_iobinding(binding)

    def read() -> FloatArray:
        return np.asarray(result.numpy(), np.float32)

    return run, read


def _make_graph(nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto]) -> bytes:
    shape = ["tokens", None]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], initializers)
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid(MICROSOFT, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def _half(name: str, values: FloatArray) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float16), name)


def _float8(name: str, values: FloatArray) -> onnx.TensorProto:
    rounded = torch.from_numpy(np.ascontiguousarray(values)).to(torch.float8_e4m3fn)
    return helper.make_tensor(
        name, TensorProto.FLOAT8E4M3FN, values.shape, rounded.view(torch.uint8).numpy().tobytes(), raw=True
    )


def to_markdown(speed: Float8Speed) -> str:
    """Return the table."""
    return (
        f"| an MLP of {speed.tokens:,} tokens | TFLOP/s | off by, of the result |\n|---|---:|---:|\n"
        f"| float16 | {speed.half} | {speed.half_error:.1e} |\n"
        f"| 8-bit products (GemmFloat8), {speed.ratio:.2f} times as fast | {speed.float8} | {speed.float8_error:.1e} |\n"
    )


def main() -> int:
    """Measure and print the table."""
    return run_measurement(
        "bench.gpu.float8",
        lambda args: measure_float8(read_subject(args), args.seconds),
        seconds=20.0,
        to_numbers=lambda speed: asdict(speed) | {"ratio": speed.ratio},
        to_markdown=to_markdown,
        add_flags=add_flags,
    )


if __name__ == "__main__":
    sys.exit(main())
