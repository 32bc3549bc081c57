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
from export.graph import Graph
from export.lengths import Length, choose_frames, judge_lengths, prepare_length
from export.precision import quantize, store_half
from export.sharing import derive_quantized, share_weights
from export.signals import Batch, golden_signals, stack
from export.target import check_target, staged_folder
from export.verify import enforce, golden_tolerance
from service.errors import StartError
from service.inference.bundle import MANIFEST_FILE, Manifest, Parity, ParityCheck, open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import find_obstacle
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
        short_windows_seconds: Shorter windows that the graphs take too.
        hop_seconds: The hop of callers who name none.
        operators: Fused or portable.
        eval_folder: Labelled clips that gate int8 and short windows.
        wishes: What the caller says about the checkpoint.
    """

    source: str
    target: Path
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    name: str | None = None
    window_seconds: float | None = None
    short_windows_seconds: tuple[float, ...] = ()
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
    lengths: tuple[Length, ...]
    clips: tuple[Clip, ...]
    float_model: onnx.ModelProto | None = None

    @property
    def golden(self) -> Batch:
        """The golden waveforms, of the longest length."""
        window_samples = self.checkpoint.architecture.window_samples
        return stack(golden_signals(window_samples), window_samples)

    @property
    def takes_shorter(self) -> bool:
        """Whether there is more than one length."""
        return len(self.lengths) > 1


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
    material = _prepare(checkpoint, choose_frames(checkpoint.architecture, request.short_windows_seconds), clips, stage)
    with staged_folder(request.target, MANIFEST_FILE) as folder:
        paths = _write_graphs(material, request, folder, stage)
        graphs = []
        for precision, path in paths.items():
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
            golden_scores={length.num_samples: length.golden_scores for length in material.lengths},
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


def _prepare(checkpoint: Checkpoint, shorter: dict[int, float], clips: tuple[Clip, ...], stage: Tell) -> _Material:
    stage("building the front end")
    features = Graph(convert_features(checkpoint, takes_shorter=bool(shorter)))
    stage("running transformers on the check signals")
    frames = {**shorter, checkpoint.architecture.max_length: None}
    lengths = tuple(prepare_length(checkpoint, features, each, seconds) for each, seconds in frames.items())
    return _Material(checkpoint=checkpoint, lengths=lengths, clips=clips)


def _build(material: _Material, precision: Precision, operators: OperatorSet) -> onnx.ModelProto:
    if precision == "fp16":
        return store_half(convert_tagger(material.checkpoint, operators, half=True, takes_shorter=material.takes_shorter))
    if material.float_model is None:
        material.float_model = convert_tagger(material.checkpoint, operators, half=False, takes_shorter=material.takes_shorter)
    if precision == "int8":
        return store_half(quantize(material.float_model))
    copy = onnx.ModelProto()
    copy.CopyFrom(material.float_model)
    return store_half(copy)


def _write_graphs(material: _Material, request: Request, folder: Path, stage: Tell) -> dict[Precision, Path]:
    """Write all graphs; several of them have their weights in one file."""
    models: dict[Precision, onnx.ModelProto] = {}
    for precision in sorted(request.precisions, key=("fp32", "fp16", "int8").index):
        stage(f"{precision}: building the graph")
        models[precision] = _build(material, precision, request.operators)
    if "fp32" in models and "int8" in models:
        derive_quantized(models["int8"], models["fp32"])
    if len(models) > 1:
        share_weights(models.values(), folder)
    paths = {precision: folder / f"model.{precision}.onnx" for precision in models}
    for precision, path in paths.items():
        onnx.save_model(models[precision], path)
    return paths


def _check(material: _Material, precision: Precision, path: Path, operators: OperatorSet, detail: Tell) -> GraphFile:
    provider: Provider = "cuda" if precision == "fp16" and find_obstacle("cuda") is None else "cpu"
    graph = Graph(path, provider)
    longest_first = material.lengths[::-1]
    checks = [check for length in longest_first for check in length.check(graph, precision)]
    is_final = precision != "fp16" or provider == "cuda"
    if is_final:
        checks += [length.time(graph) for length in longest_first]
    if precision == "fp32" and material.clips and material.takes_shorter:
        detail("scoring pieces of the clips in short windows")
        checks += judge_lengths(graph, material.lengths, material.clips)
    if precision == "int8":
        checks += _check_clips(material, graph, operators, detail)
    enforce(precision, checks)
    return GraphFile(
        precision=precision,
        path=path,
        operators=operators,
        golden_tolerance=golden_tolerance(precision, graph, material.golden, material.lengths[-1].golden_scores),
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
