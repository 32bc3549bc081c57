"""Every precision, of a small checkpoint and of the embedded one, and the bundle that is committed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile

from export.checkpoint import load_checkpoint
from export.convert import convert_tagger
from export.errors import ParityError
from export.evaluate import read_clips, score_clips
from export.graph import Graph
from export.pipeline import Request, export_bundle
from export.reference import Reference
from export.signals import check_signals, stack
from service.inference.bundle import Manifest, open_bundle
from tests.support.checkpoints import Spec, random_tensors, write_checkpoint
from tests.support.shared import REPOSITORY, shared_path

CHECKPOINT = REPOSITORY / "export" / "checkpoints" / "ast-tiny-16-16-5s"
COMMITTED = REPOSITORY / "service" / "bundles" / "ast-tiny-16-16-5s"


SMALL_LAYERS, EMBEDDED_LAYERS = 2, 12


def export_all(request: Request) -> Path:
    """Export, and return the bundle's folder."""
    stages: list[str] = []
    export_bundle(request, stages.append)
    assert len(stages) == request.num_stages, "the progress display is told of as many stages as there are"
    return request.target


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", Spec(num_layers=SMALL_LAYERS))


@pytest.fixture(scope="module")
def small(small_checkpoint: Path) -> Path:
    """A small checkpoint in all precisions; tests that write into the folder take a copy."""
    return export_all(Request(str(small_checkpoint), small_checkpoint.with_name("bundle"), ("int8", "fp32", "fp16")))


@pytest.fixture
def old_bundle(small: Path, tmp_path: Path) -> Path:
    """A bundle that lies where the next one is to go."""
    return Path(shutil.copytree(small, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint in all precisions, int8 gated on the labelled clips."""
    folder = tmp_path_factory.mktemp("export") / "tiny"
    return export_all(Request(str(CHECKPOINT), folder, ("int8", "fp32", "fp16"), eval_folder=shared_path("audio", "esc50")))


def test_the_committed_bundle_scores_sounds_as_transformers_running_the_checkpoint() -> None:
    committed = open_bundle(COMMITTED)
    signals = check_signals(committed.manifest.window_samples)
    ours = Graph(COMMITTED / "model.fp32.onnx").run(stack(signals, committed.manifest.window_samples))
    theirs = Reference(load_checkpoint(str(CHECKPOINT))).run(signals).outputs
    assert np.abs(ours.scores - theirs.scores).max() < 1e-4
    assert np.abs(ours.logits - theirs.logits).max() < 5e-4


@pytest.mark.slow
@pytest.mark.shared
def test_exporting_the_embedded_checkpoint_again_gives_the_committed_bundle(embedded: Path) -> None:
    committed, exported = open_bundle(COMMITTED), open_bundle(embedded)
    window_samples = exported.manifest.window_samples
    batch = stack(check_signals(window_samples), window_samples)
    for precision in ("fp16", "int8"):
        again, before = (Graph(path / f"model.{precision}.onnx").run(batch) for path in (embedded, COMMITTED))
        assert np.abs(again.scores - before.scores).max() < 1e-3
    again, before = (Graph(path / "model.fp32.onnx").run(batch) for path in (embedded, COMMITTED))
    assert np.abs(again.scores - before.scores).max() < 1e-6
    assert np.abs(again.logits - before.logits).max() < 1e-5
    assert committed.manifest.source.sha256 == exported.manifest.source.sha256
    assert committed.manifest.labels == exported.manifest.labels
    assert (committed.manifest.hop_samples, committed.manifest.min_samples) == (16_000, 400)
    assert np.abs(committed.load_golden().scores - exported.load_golden().scores).max() < 1e-6


def test_every_precision_is_reported_with_its_provider_and_kept_within_its_limits(small: Path) -> None:
    manifest = open_bundle(small).manifest
    check_report(manifest)
    assert manifest.preferred == {"cpu": ("fp32", "int8"), "cuda": ("fp16", "fp32")}, "no labelled clips have proven int8"


@pytest.mark.slow
@pytest.mark.shared
def test_the_embedded_int8_is_as_good_as_its_gates_on_the_labelled_clips(embedded: Path) -> None:
    manifest = open_bundle(embedded).manifest
    check_report(manifest)
    int8 = {check.check: check for check in manifest.precisions["int8"].parity.checks if check.signal == "144 clips"}
    assert int8["top-1 agreement"].measured >= 0.97
    assert int8["macro mAP difference"].measured <= 0.005
    assert manifest.preferred == {"cpu": ("int8", "fp32"), "cuda": ("fp16", "fp32")}


def check_report(manifest: Manifest) -> None:
    assert list(manifest.precisions) == ["fp32", "fp16", "int8"]
    for precision, entry in manifest.precisions.items():
        checks = {(check.check, check.signal): check for check in entry.parity.checks}
        assert checks["features", "DC offset"].limit == 5e-4
        assert ("ragged batch", "speech, 0.1 s, half") in checks
        assert entry.parity.final == (precision != "fp16" or entry.parity.provider == "cuda")
        for check in checks.values():
            assert check.limit is None or (check.measured >= check.limit if check.at_least else check.measured <= check.limit)


def test_the_graphs_are_written_in_the_operators_that_were_meant(small: Path) -> None:
    check_operators(small, SMALL_LAYERS)


@pytest.mark.slow
@pytest.mark.shared
def test_the_embedded_graphs_are_written_in_the_operators_that_were_meant(embedded: Path) -> None:
    check_operators(embedded, EMBEDDED_LAYERS)


def check_operators(folder: Path, num_layers: int) -> None:
    fp32, fp16, int8 = (operators_of(folder / f"model.{name}.onnx") for name in ("fp32", "fp16", "int8"))
    for graph in (fp32, int8):
        assert (graph["MultiHeadAttention"], graph["Gelu"], "BiasGelu" in graph) == (num_layers, num_layers, False)
    assert (fp16["MultiHeadAttention"], fp16["BiasGelu"]) == (num_layers, num_layers)
    assert fp16["SkipLayerNormalization"] == 2 * num_layers
    assert int8["MatMul"] == 4, "the three products of the front end and the head stay float32"
    assert int8["MatMulInteger"] == 6 * num_layers
    half = onnx.load_model(folder / "model.fp16.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in half.initializer}
    assert types["frontend.cosines"] == onnx.TensorProto.FLOAT
    assert types["encoder.layers.1.up.weight"] == onnx.TensorProto.FLOAT16
    assert [output.type.tensor_type.elem_type for output in half.output] == [onnx.TensorProto.FLOAT] * 3


def operators_of(path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in onnx.load_model(path).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def test_the_committed_files_are_small_and_hold_no_path_of_the_machine_that_made_them() -> None:
    files = [path for folder in (CHECKPOINT, COMMITTED) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25_000_000
    for path in COMMITTED.glob("*.onnx"):
        graph = path.read_bytes()
        assert b"site-packages" not in graph
        assert b".py" not in graph
    card = (COMMITTED / "README.md").read_text()
    assert "not a substitute" in card
    assert "About 190 of the 521 classes" in card


@pytest.mark.slow
@pytest.mark.shared
def test_the_embedded_model_is_as_often_right_as_transformers_running_the_checkpoint() -> None:
    checkpoint = load_checkpoint(str(CHECKPOINT))
    clips = tuple(clip for clip in read_clips(shared_path("audio", "esc50"), checkpoint.labels) if clip.label_id is not None)
    classes = np.unique([clip.label_id for clip in clips])
    truth = np.array([clip.label_id for clip in clips])
    ours = score_clips(Graph(COMMITTED / "model.fp32.onnx"), clips, checkpoint.architecture.window_samples)
    theirs = Reference(checkpoint).run(tuple(clip.signal for clip in clips)).outputs.scores
    accuracy, expected = (float(np.mean(classes[scores[:, classes].argmax(1)] == truth)) for scores in (ours, theirs))
    assert len(classes) == 47
    assert accuracy == pytest.approx(expected, abs=0.01)
    assert np.abs(ours - theirs).max() < 1e-4


def test_the_portable_form_has_standard_operators_only_and_the_same_scores(
    small_checkpoint: Path, small: Path, tmp_path: Path
) -> None:
    target = tmp_path / "portable"
    manifest = export_bundle(Request(str(small_checkpoint), target, ("fp32", "fp16", "int8"), operators="portable"))
    assert {entry.operators for entry in manifest.precisions.values()} == {"portable"}
    assert {entry.operators for entry in open_bundle(small).manifest.precisions.values()} == {"fused"}
    for precision in ("fp32", "fp16"):
        model = onnx.load_model(target / f"model.{precision}.onnx")
        assert {node.domain for node in model.graph.node} == {""}
        assert operators_of(target / f"model.{precision}.onnx")["Attention"] == SMALL_LAYERS
    assert manifest.opset == 23
    batch = stack(check_signals(manifest.window_samples), manifest.window_samples)
    fused, portable = (Graph(folder / "model.fp32.onnx").run(batch) for folder in (small, target))
    assert np.abs(fused.logits - portable.logits).max() < 1e-4


def test_a_bundle_that_exists_is_replaced_whole(small_checkpoint: Path, old_bundle: Path) -> None:
    assert (old_bundle / "model.int8.onnx").is_file()
    export_bundle(Request(str(small_checkpoint), old_bundle, ("fp32",), name="second", hop_seconds=0.25))
    assert sorted(path.name for path in old_bundle.iterdir()) == ["README.md", "bundle.json", "golden.npz", "model.fp32.onnx"]
    manifest = open_bundle(old_bundle).manifest
    assert (manifest.name, manifest.hop_samples) == ("second", 4_000)


def test_a_graph_is_the_same_to_the_byte_whenever_it_is_made(small_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(str(small_checkpoint))
    first, second = (convert_tagger(checkpoint, "fused", half=False).SerializeToString() for _ in range(2))
    assert first == second


def test_an_int8_graph_that_misses_its_gates_is_not_written_and_the_old_bundle_stays(old_bundle: Path, tmp_path: Path) -> None:
    spec = Spec(labels=tuple(f"label {index}" for index in range(40)))
    tensors = random_tensors(spec)
    # One channel that outweighs all others takes up int8's range: what is left of the others is rounded to nothing.
    tensors["audio_spectrogram_transformer.embeddings.position_embeddings"][:, :, 0] += 100.0
    write_checkpoint(tmp_path / "checkpoint", spec, tensors)
    clips = tmp_path / "clips"
    clips.mkdir()
    noise = np.random.default_rng(0)
    for index in range(20):
        soundfile.write(clips / f"{index}.wav", noise.normal(0.0, 0.002 * (index + 1), 16_000), 16_000)
    table = "\n".join(f"{index}.wav,label {index}" for index in range(20))
    (clips / "clips.csv").write_text(f"file,label\n{table}\n")
    before = {path.name: path.read_bytes() for path in old_bundle.iterdir()}
    with pytest.raises(ParityError, match=r"int8: .* on 20 clips is"):
        export_bundle(Request(str(tmp_path / "checkpoint"), old_bundle, ("fp32", "int8"), eval_folder=clips))
    assert {path.name: path.read_bytes() for path in old_bundle.iterdir()} == before
