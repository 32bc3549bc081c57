"""The stages of an export, from a checkpoint's name to a bundle that the service accepts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from export.architecture import FRAME_SAMPLES, SAMPLE_RATE
from export.bundle import GraphFile, write_bundle
from export.checkpoint import Checkpoint, Wishes, load_checkpoint
from export.convert import OperatorSet, convert_features, convert_tagger
from export.errors import ParityError
from export.evaluate import Clip, compare_scores, read_clips, score_clips
from export.graph import Float, Graph
from export.precision import quantize, store_half
from export.reference import Expected, Reference
from export.signals import Batch, check_signals, golden_signals, stack
from export.target import check_target, staged_folder
from export.verify import check_features, check_outputs, enforce, golden_tolerance
from service.errors import StartError
from service.inference.bundle import MANIFEST_FILE, Manifest, Parity, ParityCheck, open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import find_cuda_obstacle
from service.inference.runner import Precision, Provider

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to export.

    Attributes:
        source: A folder, a name on the hub, or an original ``.pth``.
        target: The bundle's folder.
        precisions: Which graphs.
        name: The bundle's name; None takes the checkpoint's.
        window_seconds: Another window than the checkpoint's.
        hop_seconds: The hop of callers who name none.
        operators: Fused or portable.
        eval_folder: Labelled clips that gate int8.
        wishes: What the caller says about the checkpoint.
    """

    source: str
    target: Path
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    name: str | None = None
    window_seconds: float | None = None
    hop_seconds: float = 1.0
    operators: OperatorSet = "fused"
    eval_folder: Path | None = None
    wishes: Wishes = field(default_factory=Wishes)

    @property
    def num_stages(self) -> int:
        """How many stages there will be."""
        return 5 + 2 * len(self.precisions)


@dataclass(slots=True)
class _Material:
    """What the checks of every precision share."""

    checkpoint: Checkpoint
    expected: Expected
    feature_checks: list[ParityCheck]
    golden: Batch
    golden_scores: Float
    clips: tuple[Clip, ...]
    float_model: onnx.ModelProto | None = None


def export_bundle(request: Request, stage: Tell = lambda _: None, detail: Tell = lambda _: None) -> Manifest:
    """Export a checkpoint to a bundle.

    Args:
        request: What to export.
        stage: Is told the name of each stage as it begins.
        detail: Is told how far a long stage is.

    Returns:
        The manifest of the bundle that now lies at the target.

    Raises:
        ExportError: It cannot be done; the target is as it was.
    """
    check_target(request.target, MANIFEST_FILE)
    stage("reading the checkpoint")
    checkpoint = load_checkpoint(request.source, request.wishes)
    if request.window_seconds is not None:
        checkpoint = checkpoint.with_window(request.window_seconds)
    clips = read_clips(request.eval_folder, checkpoint.labels) if request.eval_folder else ()
    material = _prepare(checkpoint, clips, stage)
    with staged_folder(request.target, MANIFEST_FILE) as folder:
        graphs = []
        for precision in sorted(request.precisions, key=("fp32", "fp16", "int8").index):
            stage(f"{precision}: building the graph")
            path = folder / f"model.{precision}.onnx"
            onnx.save_model(_build(material, precision, request.operators), path)
            stage(f"{precision}: checking it")
            graphs.append(_check(material, precision, path, request.operators, detail))
        stage("writing the bundle")
        manifest = write_bundle(
            folder,
            checkpoint,
            name=request.name or bundle_name(checkpoint.name),
            hop_samples=min(round(request.hop_seconds * SAMPLE_RATE), checkpoint.architecture.window_samples),
            min_samples=FRAME_SAMPLES,
            graphs=tuple(graphs),
            golden=material.golden,
            golden_scores=material.golden_scores,
        )
        stage("opening it as the service does")
        _prove(folder, graphs)
    return manifest


def bundle_name(checkpoint_name: str) -> str:
    """Return a name that a bundle may have: the last part of the checkpoint's, with other characters replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint_name.rsplit("/", 1)[-1]).lstrip("._-")[:100] or "model"


def _prove(folder: Path, graphs: list[GraphFile]) -> None:
    """Open the finished folder with the service's own code, which repeats the golden check.

    Raises:
        ParityError: The service refuses it.
    """
    try:
        bundle = open_bundle(folder)
        for graph in graphs:
            OnnxRunner.open(bundle, provider=graph.parity.provider, precision=graph.precision).close()
    except StartError as error:
        raise ParityError(f"the service refuses the finished bundle: {error}") from error


def _prepare(checkpoint: Checkpoint, clips: tuple[Clip, ...], stage: Tell) -> _Material:
    window_samples = checkpoint.architecture.window_samples
    signals, golden = check_signals(window_samples), golden_signals(window_samples)
    stage("running transformers on the check signals")
    reference = Reference(checkpoint)
    expected = reference.run(signals)
    stage("checking the front end")
    features = Graph(convert_features(checkpoint))
    return _Material(
        checkpoint=checkpoint,
        expected=expected,
        feature_checks=check_features(features, expected, signals, window_samples),
        golden=stack(golden, window_samples),
        golden_scores=reference.run(golden).outputs.scores,
        clips=clips,
    )


def _build(material: _Material, precision: Precision, operators: OperatorSet) -> onnx.ModelProto:
    if precision == "fp16":
        return convert_tagger(material.checkpoint, operators, half=True)
    if material.float_model is None:
        material.float_model = convert_tagger(material.checkpoint, operators, half=False)
    if precision == "int8":
        return store_half(quantize(material.float_model))
    copy = onnx.ModelProto()
    copy.CopyFrom(material.float_model)
    return store_half(copy)


def _check(material: _Material, precision: Precision, path: Path, operators: OperatorSet, detail: Tell) -> GraphFile:
    architecture = material.checkpoint.architecture
    provider: Provider = "cuda" if precision == "fp16" and find_cuda_obstacle() is None else "cpu"
    graph = Graph(path, provider)
    signals = check_signals(architecture.window_samples)
    checks = [
        *material.feature_checks,
        *check_outputs(graph, precision, material.expected, signals, architecture.window_samples),
    ]
    is_final = precision != "fp16" or provider == "cuda"
    if is_final:
        seconds = graph.seconds_a_window(stack(signals[:1], architecture.window_samples))
        checks.append(ParityCheck(check="milliseconds a window", signal="speech", measured=1e3 * seconds, limit=None))
    if precision == "int8":
        checks += _check_clips(material, graph, operators, detail)
    enforce(precision, checks)
    return GraphFile(
        precision=precision,
        path=path,
        operators=operators,
        golden_tolerance=golden_tolerance(precision, graph, material.golden, material.golden_scores),
        parity=Parity(provider=provider, final=is_final, checks=tuple(checks)),
    )


def _check_clips(material: _Material, graph: Graph, operators: OperatorSet, detail: Tell) -> list[ParityCheck]:
    if not material.clips:
        return []
    window_samples, clips = material.checkpoint.architecture.window_samples, material.clips
    done = itertools.count(1)

    def advance() -> None:
        detail(f"{next(done)} of {2 * len(clips)} clips")

    baseline = score_clips(Graph(_build(material, "fp32", operators)), clips, window_samples, advance)
    return compare_scores(score_clips(graph, clips, window_samples, advance), baseline, clips)
