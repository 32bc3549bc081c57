"""Every kind of checkpoint of the family gives through the bundle what transformers gives from the checkpoint's own folder."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, ASTForAudioClassification

from export.checkpoint import Wishes
from export.pipeline import Request, export_bundle
from export.signals import Signal, read_speech, repeat, stack
from service.inference.bundle import open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.runner import ModelOutput
from tests.support.checkpoints import Spec, random_tensors, to_original_names, write_checkpoint

SOFTMAX = "single_label_classification"
FAMILY = {
    "stride 10, Speech Commands' length, softmax": Spec(stride=(10, 10), max_length=128, problem_type=SOFTMAX),
    "stride 12, no problem type": Spec(stride=(12, 12), max_length=100, problem_type=None),
    "stride 14, three layers": Spec(stride=(14, 14), max_length=160, num_layers=3),
    "stride 16, another normalisation": Spec(stride=(16, 16), max_length=112, mean=-6.6, std=5.3),
    "mixed strides, one head, one layer": Spec(stride=(16, 10), max_length=97, num_heads=1, num_layers=1),
    "no qkv bias, two labels": Spec(max_length=64, qkv_bias=False, labels=("yes", "no"), problem_type=SOFTMAX),
    "one label, one patch in time": Spec(max_length=16, labels=("Alarm",)),
}
EXAMPLES = {"mixed strides, one head, one layer", "no qkv bias, two labels"}
"""What differs most from one another, for every day; an export takes seconds, however small it is."""


def run_transformers(folder: Path, signals: tuple[Signal, ...], *, softmax: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logits and scores of transformers' own classes on the checkpoint's own folder."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        extractor = ASTFeatureExtractor.from_pretrained(folder)
    model = ASTForAudioClassification.from_pretrained(folder).float().eval()
    rows = []
    for signal in signals:
        inputs = extractor(signal.samples.astype(np.float32) / 32_768, sampling_rate=16_000)["input_values"]
        with torch.inference_mode():
            rows.append(model(torch.from_numpy(np.asarray(inputs, dtype=np.float32))).logits)
    logits = torch.cat(rows)
    return logits.numpy(), (torch.softmax(logits, 1) if softmax else torch.sigmoid(logits)).numpy()


def run_bundle(folder: Path, signals: tuple[Signal, ...]) -> ModelOutput:
    """What the service's runner gives for the same sounds, cropped to the window, in one ragged batch."""
    runner = OnnxRunner.open(open_bundle(folder), provider="cpu")
    batch = stack(signals, runner.spec.window_samples)
    output = runner.run(batch.waveform, batch.lengths, embedding=True)
    runner.close()
    return output


def make_sounds(window_samples: int) -> tuple[Signal, ...]:
    """Sounds that the exporter does not check itself."""
    speech = read_speech()
    noise = np.random.default_rng(11).normal(0.0, 3_000.0, window_samples).astype(np.int16)
    return (
        Signal("later speech", repeat(speech[30_000:], window_samples)),
        Signal("noise", noise),
        Signal("a third of it", noise[: max(window_samples // 3, 400)]),
        Signal("a frame", speech[20_000:20_400]),
        Signal("too long", repeat(speech, 2 * window_samples)),
    )


@pytest.mark.parametrize(
    "spec", [pytest.param(spec, id=name, marks=() if name in EXAMPLES else pytest.mark.slow) for name, spec in FAMILY.items()]
)
def test_a_bundle_gives_what_transformers_gives(spec: Spec, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", spec)
    manifest = export_bundle(Request(str(tmp_path / "checkpoint"), tmp_path / "bundle", ("fp32",)))
    softmax = spec.problem_type != "multi_label_classification"
    sounds = make_sounds(manifest.window_samples)
    logits, scores = run_transformers(tmp_path / "checkpoint", sounds, softmax=softmax)
    output = run_bundle(tmp_path / "bundle", sounds)
    assert np.ptp(logits, axis=0).max() > 0.05, "these weights must tell the sounds apart, or the test shows nothing"
    assert manifest.activation == ("softmax" if softmax else "sigmoid")
    assert manifest.window_samples == 400 + 160 * (spec.max_length - 1)
    assert np.abs(output.logits - logits).max() < 5e-4
    assert np.abs(output.scores - scores).max() < 1e-4
    assert output.embedding is not None
    assert output.embedding.shape == (len(sounds), spec.hidden_size)


def test_an_original_pth_gives_what_transformers_gives_for_the_same_weights(tmp_path: Path) -> None:
    spec = Spec(hidden_size=128, num_heads=2, stride=(10, 10), max_length=128, problem_type=SOFTMAX)
    tensors = random_tensors(spec)
    write_checkpoint(tmp_path / "hub", spec, tensors)
    torch.save({"state_dict": to_original_names(tensors, spec.num_layers)}, tmp_path / "original.pth")
    (tmp_path / "labels.txt").write_text("\n".join(spec.labels))
    wishes = Wishes(labels=tmp_path / "labels.txt", activation="softmax")
    manifest = export_bundle(Request(str(tmp_path / "original.pth"), tmp_path / "bundle", ("fp32",), wishes=wishes))
    sounds = make_sounds(manifest.window_samples)
    logits, scores = run_transformers(tmp_path / "hub", sounds, softmax=True)
    output = run_bundle(tmp_path / "bundle", sounds)
    assert manifest.source.format == "original"
    assert np.abs(output.logits - logits).max() < 5e-4
    assert np.abs(output.scores - scores).max() < 1e-4


@pytest.mark.parametrize(("seconds", "max_length", "time"), [(0.8, 79, 4), pytest.param(2.4, 239, 14, marks=pytest.mark.slow)])
def test_another_window_is_the_network_with_the_originals_positions(
    seconds: float, max_length: int, time: int, tmp_path: Path
) -> None:
    spec = Spec(max_length=160)
    tensors = random_tensors(spec)
    write_checkpoint(tmp_path / "checkpoint", spec, tensors)
    manifest = export_bundle(Request(str(tmp_path / "checkpoint"), tmp_path / "bundle", ("fp32",), window_seconds=seconds))
    # The original's own lines, for a grid of 8 x 10.
    name = "audio_spectrogram_transformer.embeddings.position_embeddings"
    grid = tensors[name][:, 2:, :].reshape(1, 80, 64).transpose(1, 2).reshape(1, 64, 8, 10)
    if time < 10:
        grid = grid[:, :, :, 5 - int(time / 2) : 5 - int(time / 2) + time]
    else:
        grid = torch.nn.functional.interpolate(grid, size=(8, time), mode="bilinear")
    positions = torch.cat([tensors[name][:, :2], grid.reshape(1, 64, 8 * time).transpose(1, 2)], dim=1).contiguous()
    write_checkpoint(tmp_path / "resized", dataclasses.replace(spec, max_length=max_length), tensors | {name: positions})
    sounds = make_sounds(manifest.window_samples)
    logits, _ = run_transformers(tmp_path / "resized", sounds, softmax=False)
    assert manifest.window_samples >= seconds * 16_000
    assert np.abs(run_bundle(tmp_path / "bundle", sounds).logits - logits).max() < 5e-4
