"""From the torch module to an ONNX graph."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Literal

import onnx
import torch
from torch import nn

from export.architecture import FRAME_SAMPLES, SHIFT_SAMPLES, Architecture
from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.frontend import LogMel
from export.network import Tagger
from export.operators import FusedOperators, Operators, PortableOperators

INPUTS = ("waveform", "lengths")
OUTPUTS = ("logits", "scores", "embedding")
OperatorSet = Literal["fused", "portable"]


def convert_tagger(
    checkpoint: Checkpoint, operators: OperatorSet, *, half: bool, takes_shorter: bool = False
) -> onnx.ModelProto:
    """Export the whole graph.

    Args:
        checkpoint: What to export.
        operators: Fused operators of onnxruntime, or standard ones.
        half: Whether the encoder is float16; front end, head and outputs are float32 all the same. The encoder is made
            half here, in torch: converting a finished graph reaches the front end and ruins it.
        takes_shorter: Whether the samples' axis is dynamic: any number of whole frames, of a patch or more.

    Raises:
        ExportError: torch could not export it.
    """
    module = Tagger(
        checkpoint.weights,
        checkpoint.architecture,
        checkpoint.features,
        checkpoint.activation,
        choose_operators(operators, checkpoint.architecture.layer_norm_eps, half=half),
    )
    if half:
        module.encoder.half()
    opset = PortableOperators.opset if operators == "portable" else FusedOperators.opset
    return _convert(module, checkpoint.architecture, OUTPUTS, opset, takes_shorter=takes_shorter)


def convert_features(checkpoint: Checkpoint, *, takes_shorter: bool = False) -> onnx.ModelProto:
    """Export the front end alone, with the one output ``features``: for the check against the reference's features."""
    architecture = checkpoint.architecture
    module = LogMel(architecture.num_mel_bins, architecture.max_length, checkpoint.features)
    return _convert(module, architecture, ("features",), FusedOperators.opset, takes_shorter=takes_shorter)


def choose_operators(operators: OperatorSet, eps: float, *, half: bool) -> Operators:
    """Return how a graph is written: float16 is for GPUs, where residual add and norm are one, and patches a product."""
    if operators == "portable":
        return PortableOperators(eps, unfolds_patches=half)
    return FusedOperators(eps, fuses_sums=half, unfolds_patches=half)


def _convert(
    module: nn.Module, architecture: Architecture, outputs: tuple[str, ...], opset: int, *, takes_shorter: bool
) -> onnx.ModelProto:
    samples = architecture.window_samples
    # Two rows: torch takes an axis of one for a constant.
    example = (torch.zeros(2, samples, dtype=torch.int16), torch.full((2,), samples, dtype=torch.int64))
    batch = torch.export.Dim("batch", min=1, max=4096)
    axes = {0: batch}
    if takes_shorter:
        frames = torch.export.Dim("frames", min=architecture.patch_size, max=architecture.max_length)
        axes[1] = SHIFT_SAMPLES * frames + (FRAME_SAMPLES - SHIFT_SAMPLES)
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=opset,
                input_names=INPUTS,
                output_names=outputs,
                dynamic_shapes={"waveform": axes, "lengths": {0: batch}},
                external_data=False,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"torch cannot export this network: {str(error).splitlines()[0]}") from error
    if program is None:
        raise ExportError("torch exported nothing")
    model = _tidy(program.model_proto)
    if takes_shorter:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "samples"
    return model


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop outputs that nothing reads, and the notes with the exporting machine's paths that torch leaves in a graph."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in graph.node:
        kept = [name if name in used else "" for name in node.output]
        while kept and not kept[-1]:
            kept.pop()
        del node.output[:]
        node.output.extend(kept)
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    kept_info = [info for info in graph.value_info if info.name in used]
    del graph.value_info[:]
    graph.value_info.extend(kept_info)
    onnx.checker.check_model(model)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own code and on optional packages off the caller's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
