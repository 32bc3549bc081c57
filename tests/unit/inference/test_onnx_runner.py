from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from service.errors import BundleError
from service.inference.bundle import open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import has_nvidia_device
from tests.support.bundles import LABELS, NUM_HIDDEN, NUM_SAMPLES, Activation, build_model, reference, write_bundle

EMBEDDED = Path(__file__).resolve().parents[3] / "service" / "bundles" / "ast-tiny-16-16-5s"


def open_runner(folder: Path, **options: Any) -> OnnxRunner:
    return OnnxRunner.open(open_bundle(folder), **{"provider": "cpu", "num_threads": 1} | options)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_runner_computes_what_its_graph_says(tmp_path: Path, activation: Activation) -> None:
    runner = open_runner(write_bundle(tmp_path, activation=activation))
    waveform = np.random.default_rng(0).integers(-30000, 30000, (2, NUM_SAMPLES), np.int16)
    lengths = np.array([500, NUM_SAMPLES])
    embedding, logits, scores = reference(waveform, lengths, activation)
    output = runner.run(waveform, lengths, embedding=True)
    np.testing.assert_allclose(output.scores, scores, atol=1e-5)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-3, atol=1e-4)
    assert output.embedding is not None
    np.testing.assert_allclose(output.embedding, embedding, rtol=1e-3, atol=1e-4)
    assert runner.run(waveform, lengths, embedding=False).embedding is None


def test_the_spec_says_what_the_manifest_says(tmp_path: Path) -> None:
    spec = open_runner(write_bundle(tmp_path, activation="softmax"), name="served").spec
    assert (spec.name, tuple(spec.labels), spec.multi_label) == ("served", LABELS, False)
    assert (spec.sample_rate, spec.window_samples, spec.hop_samples, spec.min_samples) == (16_000, NUM_SAMPLES, 800, 400)
    assert (spec.embedding_size, spec.provider, spec.precision) == (NUM_HIDDEN, "cpu", "fp32")
    assert spec.source_sha256 == "a" * 64
    assert list(spec.batch_sizes) == sorted(set(spec.batch_sizes))


def test_a_runner_is_named_after_its_bundle_unless_told_otherwise(tmp_path: Path) -> None:
    assert open_runner(write_bundle(tmp_path, name="mine")).spec.name == "mine"


def test_the_wanted_precision_runs(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, precisions=("fp32", "int8"))
    assert open_runner(folder).spec.precision == "int8"
    assert open_runner(folder, precision="fp32").spec.precision == "fp32"
    with pytest.raises(BundleError, match="not fp16"):
        open_runner(folder, precision="fp16")


def test_a_closed_runner_runs_no_more(tmp_path: Path) -> None:
    runner = open_runner(write_bundle(tmp_path))
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner.run(np.zeros((1, NUM_SAMPLES), np.int16), np.array([NUM_SAMPLES]), embedding=False)


def test_loading_and_warming_up_are_measured(tmp_path: Path) -> None:
    runner = open_runner(write_bundle(tmp_path))
    assert runner.load_seconds > 0
    assert runner.warm_up_seconds > 0


def shift_one_score(arrays: dict[str, Any]) -> None:
    arrays["scores"][2, 1] += 0.01


def spoil_one_score(arrays: dict[str, Any]) -> None:
    arrays["scores"][1, 0] = np.nan


def test_wrong_golden_scores_are_refused_with_label_expected_and_got(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        open_runner(write_bundle(tmp_path, golden=shift_one_score))
    message = str(caught.value)
    assert "computes wrong scores in fp32 on cpu: golden clip 2, label 'Music, loud': expected " in message
    assert message.endswith("the tolerance is 0.0001")
    expected, got = (float(message.split(word)[1].split(",")[0]) for word in ("expected ", "got "))
    assert expected - got == pytest.approx(0.01, abs=1e-5)


def test_golden_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="golden clip 1, label 'Speech': expected nan"):
        open_runner(write_bundle(tmp_path, golden=spoil_one_score))


def test_a_tolerance_of_the_precision_is_kept(tmp_path: Path) -> None:
    def allow_more(document: dict[str, Any]) -> None:
        document["precisions"]["fp32"]["golden_tolerance"] = 0.02

    assert open_runner(write_bundle(tmp_path, golden=shift_one_score, manifest=allow_more)).spec.precision == "fp32"


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: build_model(input_name="audio"), r"the inputs of model\.fp32\.onnx are audio, lengths"),
        (lambda: build_model(batch=1), r"the input waveform .* tensor\(int16\) \[1, 1600\]"),
        (lambda: build_model(num_samples=800), r"\['batch', 800\], expected tensor\(int16\) \['batch', 1600\]"),
        (lambda: build_model(output_type=TensorProto.FLOAT16), r"the output logits .* tensor\(float16\)"),
        (lambda: build_model(fails_when_run=True), "onnxruntime cannot run"),
        (lambda: b"no graph", "is no ONNX model"),
        (lambda: build_model().SerializeToString()[:-99], "is no ONNX model"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(
    tmp_path: Path, build: Callable[[], onnx.ModelProto | bytes], reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        open_runner(write_bundle(tmp_path, model=build()))


def test_a_graph_with_other_labels_than_the_manifest_is_refused(tmp_path: Path) -> None:
    def drop_one(document: dict[str, Any]) -> None:
        document["labels"].pop()

    def drop_score(arrays: dict[str, Any]) -> None:
        arrays["scores"] = arrays["scores"][:, :2]

    with pytest.raises(BundleError, match=r"\['batch', 3\], expected tensor\(float\) \['batch', 2\]"):
        open_runner(write_bundle(tmp_path, manifest=drop_one, golden=drop_score))


def test_the_embedded_bundle_proves_itself_and_in_float32_does_not_mind_the_company_in_a_batch() -> None:
    bundle = open_bundle(EMBEDDED)
    runner = OnnxRunner.open(bundle, provider="cpu", precision="fp32", num_threads=2)
    assert runner.spec.windows_samples == bundle.manifest.windows_samples
    for length in runner.spec.windows_samples:
        golden = bundle.load_golden(length)
        waveform, lengths = golden.waveform[:2].copy(), golden.lengths[:2].copy()
        assert waveform.shape == (2, length)
        lengths[1] = runner.spec.min_samples
        together = runner.run(waveform, lengths, embedding=False)
        for row in range(2):
            waveform[row, lengths[row] :] = 12_345  # what lies past the length is ignored
            alone = runner.run(waveform[row : row + 1], lengths[row : row + 1], embedding=False)
            np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-4)


def test_a_graph_that_takes_one_length_is_no_graph_for_a_bundle_of_two(tmp_path: Path) -> None:
    def add_length(document: dict[str, Any]) -> None:
        document |= {"format_version": 2, "windows_samples": [800, 1600]}

    def add_scores(arrays: dict[str, Any]) -> None:
        arrays["scores_800"] = arrays["scores"]

    with pytest.raises(BundleError, match=r"waveform of model.fp32.onnx is tensor\(int16\) \['batch', 1600\]"):
        open_runner(write_bundle(tmp_path, manifest=add_length, golden=add_scores))


@pytest.mark.gpu
def test_the_embedded_bundle_proves_itself_on_the_gpu_in_every_warm_batch_size() -> None:
    if not has_nvidia_device():
        pytest.skip("needs an NVIDIA GPU")
    bundle = open_bundle(EMBEDDED)
    runner = OnnxRunner.open(bundle, provider="cuda")
    assert runner.spec.provider == "cuda"
    golden = bundle.load_golden()
    for size in runner.spec.batch_sizes:
        rows = np.arange(size) % len(golden.lengths)
        output = runner.run(golden.waveform[rows], golden.lengths[rows], embedding=False)
        np.testing.assert_allclose(output.scores, golden.scores[rows], atol=1e-3)
