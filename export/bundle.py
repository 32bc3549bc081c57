"""A bundle's files, in the format that `service.inference.bundle` reads."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from export.architecture import SAMPLE_RATE
from export.card import write_card
from export.checkpoint import Checkpoint
from export.convert import OperatorSet
from export.evaluate import MAP_DIFFERENCE
from export.graph import Float
from export.signals import Batch
from service.inference.bundle import (
    CARD_FILE,
    FORMAT_VERSION,
    GOLDEN_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Architecture,
    Label,
    Manifest,
    Parity,
    PrecisionEntry,
    Source,
    golden_scores_name,
    hash_file,
)
from service.inference.runner import Precision, Provider

_TOOLS = ("sonotag", "torch", "transformers", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")


@dataclass(frozen=True, slots=True)
class GraphFile:
    """One exported and checked graph.

    Attributes:
        precision: Which.
        path: Where it lies, in the folder that becomes the bundle.
        operators: Fused or portable.
        golden_tolerance: See `service.inference.bundle.PrecisionEntry`.
        parity: What was measured.
    """

    precision: Precision
    path: Path
    operators: OperatorSet
    golden_tolerance: float
    parity: Parity


def write_bundle(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    name: str,
    hop_samples: int,
    min_samples: int,
    graphs: tuple[GraphFile, ...],
    golden: Batch,
    golden_scores: dict[int, Float],
) -> Manifest:
    """Write manifest, golden waveforms and model card beside the graphs.

    Args:
        folder: Holds the graphs already.
        checkpoint: What was exported.
        name: The bundle's.
        hop_samples: The hop of callers who name none.
        min_samples: The fewest samples that can be scored.
        graphs: What lies in the folder.
        golden: Waveforms with known scores.
        golden_scores: Their scores at each length of window, from transformers in float32; the longest is the checkpoint's.

    Returns:
        The manifest, as written.
    """
    golden_file = folder / GOLDEN_FILE
    numbers = checkpoint.architecture
    lengths = tuple(sorted(golden_scores))
    np.savez_compressed(
        golden_file,
        allow_pickle=False,
        waveform=golden.waveform,
        lengths=golden.lengths,
        scores=golden_scores[numbers.window_samples],
        **{golden_scores_name(length): golden_scores[length] for length in lengths[:-1]},
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        architecture=Architecture(
            hidden_size=numbers.hidden_size,
            num_layers=numbers.num_layers,
            num_heads=numbers.num_heads,
            mlp_size=numbers.mlp_size,
            patch_size=numbers.patch_size,
            frequency_stride=numbers.frequency_stride,
            time_stride=numbers.time_stride,
            num_mel_bins=numbers.num_mel_bins,
            max_length=numbers.max_length,
            num_parameters=checkpoint.num_parameters,
        ),
        labels=tuple(Label(id=index, label=label) for index, label in enumerate(checkpoint.labels)),
        activation=checkpoint.activation,
        sample_rate=SAMPLE_RATE,
        window_samples=numbers.window_samples,
        windows_samples=lengths,
        hop_samples=hop_samples,
        min_samples=min_samples,
        opset=max(read_opset(graph.path) for graph in graphs),
        source=Source(name=checkpoint.name, format=checkpoint.format, sha256=checkpoint.sha256, licence=checkpoint.licence),
        tools=tool_versions(),
        golden_sha256=hash_file(golden_file),
        weights_sha256=hash_file(folder / WEIGHTS_FILE) if (folder / WEIGHTS_FILE).is_file() else None,
        precisions={
            graph.precision: PrecisionEntry(
                file=graph.path.name,
                sha256=hash_file(graph.path),
                operators=graph.operators,
                golden_tolerance=graph.golden_tolerance,
                parity=graph.parity,
            )
            for graph in graphs
        },
        preferred=prefer(graphs),
    )
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(write_card(manifest, checkpoint.card), encoding="utf-8")
    return manifest


def prefer(graphs: tuple[GraphFile, ...]) -> dict[Provider, tuple[Precision, ...]]:
    """Return for each provider the precisions that serve well on it, best first, of those there are.

    On the CPU int8 comes first where labelled clips have shown that it ranks and scores as float32 does; its scores are not the
    checkpoint's to the last digit (docs/performance.md). float16 has no kernels there, and int8 has none on CUDA.
    """
    is_int8_proven = any(
        check.check == MAP_DIFFERENCE and check.limit is not None
        for graph in graphs
        if graph.precision == "int8"
        for check in graph.parity.checks
    )
    on_cpu: tuple[Precision, ...] = ("int8", "fp32") if is_int8_proven else ("fp32", "int8")
    order: dict[Provider, tuple[Precision, ...]] = {"cpu": on_cpu, "cuda": ("fp16", "fp32")}
    held = {graph.precision for graph in graphs}
    return {provider: tuple(precision for precision in ranked if precision in held) for provider, ranked in order.items()}


def read_opset(path: Path) -> int:
    """Return the version of the standard operators that a graph uses."""
    model = onnx.load_model(path, load_external_data=False)
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def tool_versions() -> dict[str, str]:
    """Return the versions of what made the bundle, of those that are installed."""
    versions = {}
    for tool in _TOOLS:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
