"""Short windows: the same graph on fewer samples, with the middle of the positions, which must be as good as the long way."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from export.checkpoint import load_checkpoint
from export.errors import CheckpointError, ParityError
from export.evaluate import cut_pieces, macro_map, read_clips, score_clips, top_1
from export.graph import Graph
from export.pipeline import Request, export_bundle
from export.reference import Reference
from export.signals import Signal, stack
from service.inference.bundle import hash_file, open_bundle
from service.inference.onnx_runner import OnnxRunner
from tests.support.checkpoints import Spec, write_checkpoint
from tests.support.shared import REPOSITORY, shared_path

CHECKPOINT = REPOSITORY / "export" / "checkpoints" / "ast-tiny-16-16-5s"
COMMITTED = REPOSITORY / "service" / "bundles" / "ast-tiny-16-16-5s"
SHORT = Spec(stride=(10, 10), max_length=128, labels=tuple(f"label {index}" for index in range(12)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """What made a bundle with short windows; tests that write into its folder take a copy."""
    folder = tmp_path_factory.mktemp("short")
    checkpoint = write_checkpoint(folder / "checkpoint", SHORT)
    request = Request(str(checkpoint), folder / "bundle", ("fp32",), short_windows_seconds=(0.5, 0.25))
    export_bundle(request)
    return request


def test_the_graph_takes_every_length(exported: Request) -> None:
    check_lengths(exported)


@pytest.mark.slow
def test_every_graph_takes_every_length_and_is_the_same_when_it_is_exported_again(exported: Request, tmp_path: Path) -> None:
    both = dataclasses.replace(exported, target=tmp_path / "both", precisions=("fp32", "fp16"))
    export_bundle(both)
    check_lengths(both)
    again = dataclasses.replace(exported, target=tmp_path / "again")
    export_bundle(again)
    assert hash_file(again.target / "model.fp32.onnx") == hash_file(exported.target / "model.fp32.onnx")


def check_lengths(request: Request) -> None:
    bundle = open_bundle(request.target)
    # Whole patches of 16 frames every 10: 26 frames hold 0.25 s, 56 hold 0.5 s.
    assert bundle.manifest.windows_samples == (400 + 25 * 160, 400 + 55 * 160, 400 + 127 * 160)
    assert tuple(bundle.manifest.precisions) == request.precisions
    for precision, entry in bundle.manifest.precisions.items():
        assert {check.signal for check in entry.parity.checks if check.check == "scores"} >= {
            "0.275 s window",
            "0.575 s window",
        }
        OnnxRunner.open(bundle, provider="cpu", precision=precision).close()


def test_a_short_window_that_is_not_shorter_is_refused(exported: Request, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a short window of 1.29 s needs the 1.295 s of the checkpoint's own"):
        export_bundle(dataclasses.replace(exported, target=tmp_path / "bundle", short_windows_seconds=(1.29,)))


def test_a_short_window_that_is_less_often_right_is_not_exported(exported: Request, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(exported.source)
    noise = np.random.default_rng(0)
    sounds = [(noise.normal(0.0, 1.0, 4_000) * 200 * 2**level).astype(np.int16) for level in range(7) for _ in range(8)]
    clips = tmp_path / "clips"
    clips.mkdir()
    target = Path(shutil.copytree(exported.target, tmp_path / "bundle"))
    graph = Graph(target / "model.fp32.onnx")
    padded = np.concatenate(
        [graph.run(stack((Signal("", sound),), checkpoint.architecture.window_samples)).scores for sound in sounds]
    )
    # What the long window says is the truth here: each label's own pieces are those that it ranks highest.
    truth = (padded - padded.mean(axis=0)).argmax(axis=1)
    for index, sound in enumerate(sounds):
        soundfile.write(clips / f"{index}.wav", sound, 16_000)
    table = "\n".join(f"{index}.wav,label {label}" for index, label in enumerate(truth))
    (clips / "clips.csv").write_text(f"file,label\n{table}\n")
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(ParityError, match=r"fp32: (top-1|macro mAP) gain on \d+ pieces of 0\.\d+ s, 0\.\d75 s window is -"):
        export_bundle(dataclasses.replace(exported, target=target, precisions=("fp32",), eval_folder=clips))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


@pytest.mark.shared
@pytest.mark.parametrize(("index", "seconds"), [(0, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_the_embedded_short_windows_are_transformers_and_as_often_right_as_padding(index: int, seconds: int) -> None:
    checkpoint = load_checkpoint(str(CHECKPOINT))
    manifest = open_bundle(COMMITTED).manifest
    num_samples = manifest.windows_samples[index]
    pieces = cut_pieces(read_clips(shared_path("audio", "esc50"), checkpoint.labels), 16_000 * seconds)[:: 16 - 8 * index]
    graph = Graph(COMMITTED / "model.fp32.onnx")
    short, padded = score_clips(graph, pieces, num_samples), score_clips(graph, pieces, manifest.window_samples)
    theirs = Reference(checkpoint.with_frames(num_samples // 160 - 1)).run(tuple(piece.signal for piece in pieces))
    assert np.abs(short - theirs.outputs.scores).max() < 1e-4
    assert top_1(short, pieces) >= top_1(padded, pieces) - 0.05
    assert macro_map(short, pieces) >= macro_map(padded, pieces) - 0.05


def test_the_embedded_bundle_says_how_its_short_windows_did_on_labelled_clips() -> None:
    manifest = open_bundle(COMMITTED).manifest
    assert manifest.windows_samples == (18_160, 33_520, 82_160)
    gains = [check for check in manifest.precisions["fp32"].parity.checks if check.check in {"top-1 gain", "macro mAP gain"}]
    assert len(gains) == 8
    assert all(check.at_least and check.limit == -0.01 and check.measured >= check.limit for check in gains)
