"""Small bundles of a small graph, and ways to break them. The graph is a linear model with the outputs of a real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.inference.bundle import hash_file
from service.inference.runner import FloatArray, Int16Array, Int64Array, Precision

NUM_SAMPLES, NUM_HIDDEN, MIN_SAMPLES = 1600, 6, 400
LABELS = ("Speech", "Music, loud", "Dog")
Activation = Literal["sigmoid", "softmax"]


def weights() -> tuple[FloatArray, FloatArray]:
    """Return the two matrices of the linear model."""
    generator = np.random.default_rng(5)
    first = generator.normal(size=(NUM_SAMPLES, NUM_HIDDEN)).astype(np.float32) / 10
    return first, generator.normal(size=(NUM_HIDDEN, len(LABELS))).astype(np.float32)


def reference(waveform: Int16Array, lengths: Int64Array, activation: Activation = "sigmoid") -> tuple[FloatArray, ...]:
    """Return embedding, logits and scores of the linear model, computed by numpy."""
    first, second = weights()
    valid = np.arange(NUM_SAMPLES) < lengths[:, None]
    embedding = np.where(valid, waveform.astype(np.float32) / 32768, 0).astype(np.float32) @ first
    logits = embedding @ second
    exponential = np.exp(logits)
    scores = 1 / (1 + 1 / exponential) if activation == "sigmoid" else exponential / exponential.sum(axis=1, keepdims=True)
    return embedding, logits, scores.astype(np.float32)


def build_model(
    activation: Activation = "sigmoid",
    *,
    input_name: str = "waveform",
    batch: str | int = "batch",
    num_samples: int = NUM_SAMPLES,
    output_type: int = TensorProto.FLOAT,
    fails_when_run: bool = False,
) -> onnx.ModelProto:
    """Build the graph. The options make it something that a bundle must not hold."""
    first, second = weights()
    first = first[:num_samples]
    constants = {
        "first": first,
        "second": second,
        "positions": np.arange(num_samples, dtype=np.int64)[None],
        "column": np.array([1], np.int64),
        "scale": np.array(32768, np.float32),
        "nothing": np.array(0, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["scaled"]),
        helper.make_node("Unsqueeze", ["lengths", "column"], ["ends"]),
        helper.make_node("Less", ["positions", "ends"], ["valid"]),
        helper.make_node("Where", ["valid", "scaled", "nothing"], ["masked"]),
        helper.make_node("MatMul", ["masked", "first"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "second"], ["exact_logits"]),
        helper.make_node("Cast", ["exact_logits"], ["logits"], to=output_type),
        helper.make_node("Sigmoid" if activation == "sigmoid" else "Softmax", ["exact_logits"], ["scores"]),
    ]
    if fails_when_run:  # picks rows by lengths, which are far past the batch
        nodes[6] = helper.make_node("MatMul", ["picked", "second"], ["exact_logits"])
        nodes.insert(6, helper.make_node("Gather", ["embedding", "lengths"], ["picked"], axis=0))
    graph = helper.make_graph(
        nodes,
        "linear",
        [
            helper.make_tensor_value_info(input_name, TensorProto.INT16, [batch, num_samples]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, [batch]),
        ],
        [
            helper.make_tensor_value_info("logits", output_type, [batch, len(LABELS)]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, len(LABELS)]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, NUM_HIDDEN]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write_bundle(
    folder: Path,
    *,
    name: str = "linear",
    activation: Activation = "sigmoid",
    precisions: tuple[Precision, ...] = ("fp32",),
    model: onnx.ModelProto | bytes | None = None,
    golden: Callable[[dict[str, Any]], None] = lambda arrays: None,
    manifest: Callable[[dict[str, Any]], None] = lambda document: None,
) -> Path:
    """Write a bundle whose hashes are right, whatever else is wrong with it.

    Args:
        folder: Where; made if it is missing.
        name: Its name.
        activation: What makes scores of logits.
        precisions: What it holds; all are the same graph.
        model: The graph, if not `build_model`'s; bytes are written as they are.
        golden: Changes the golden arrays in place before they are written.
        manifest: Changes ``bundle.json`` in place before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(3)
    waveform = generator.integers(-32768, 32767, (3, NUM_SAMPLES), np.int16, endpoint=True)
    lengths = np.array([NUM_SAMPLES, 401, 900], np.int64)
    arrays = {"waveform": waveform, "lengths": lengths, "scores": reference(waveform, lengths, activation)[2]}
    golden(arrays)
    np.savez(folder / "golden.npz", **arrays)
    content = build_model(activation) if model is None else model
    for precision in precisions:
        payload = content if isinstance(content, bytes) else content.SerializeToString()
        (folder / f"model.{precision}.onnx").write_bytes(payload)
    document = _manifest(folder, name, activation, precisions)
    manifest(document)
    (folder / "bundle.json").write_text(json.dumps(document))
    return folder


def _manifest(folder: Path, name: str, activation: Activation, precisions: tuple[Precision, ...]) -> dict[str, Any]:
    return {
        "format_version": 1,
        "name": name,
        "architecture": {
            "hidden_size": NUM_HIDDEN,
            "num_layers": 1,
            "num_heads": 1,
            "mlp_size": 1,
            "patch_size": 16,
            "frequency_stride": 16,
            "time_stride": 16,
            "num_mel_bins": 128,
            "max_length": 8,
            "num_parameters": NUM_SAMPLES * NUM_HIDDEN + NUM_HIDDEN * len(LABELS),
        },
        "labels": [{"id": i, "label": label} for i, label in enumerate(LABELS)],
        "activation": activation,
        "sample_rate": 16_000,
        "window_samples": NUM_SAMPLES,
        "hop_samples": 800,
        "min_samples": MIN_SAMPLES,
        "opset": 20,
        "source": {"name": "made-up/linear", "format": "transformers", "sha256": "a" * 64, "licence": "CC0-1.0"},
        "tools": {"onnx": onnx.__version__},
        "golden_sha256": hash_file(folder / "golden.npz"),
        "precisions": {
            precision: {
                "file": f"model.{precision}.onnx",
                "sha256": hash_file(folder / f"model.{precision}.onnx"),
                "operators": "portable",
                "golden_tolerance": 1e-4,
                "parity": {
                    "provider": "cpu",
                    "final": True,
                    "checks": [{"check": "scores", "signal": "noise", "measured": 1e-6, "limit": 1e-4}],
                },
            }
            for precision in precisions
        },
        "preferred": {"cpu": ["int8", "fp32"], "cuda": ["fp16", "fp32"]},
    }
