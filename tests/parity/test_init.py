"""A checkpoint that is made from ImageNet weights: its numbers, and that transformers and the exporter take it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from export.checkpoint import load_checkpoint
from export.cli import main
from tests.support.checkpoints import random_vit

POSITIONS = "audio_spectrogram_transformer.embeddings.position_embeddings"
PATCHES = "audio_spectrogram_transformer.embeddings.patch_embeddings.projection.weight"


def init(folder: Path, tensors: dict[str, torch.Tensor], *arguments: str, labels: str = "cat\ndog\nrain") -> Path:
    torch.save({"model": tensors}, folder / "vit.pth")
    (folder / "labels.txt").write_text(labels)
    files = ["--vit", str(folder / "vit.pth"), "--labels", str(folder / "labels.txt")]
    assert main(["init", *arguments, *files, str(folder / "ast")]) == 0
    return folder / "ast"


def originals_positions(tensors: dict[str, torch.Tensor], side: int, frequency: int, time: int) -> torch.Tensor:
    """The original repository's own lines: time first, then frequency, each cropped in the middle or interpolated."""
    width = tensors["pos_embed"].shape[2]
    grid = tensors["pos_embed"][:, 2:, :].reshape(1, side * side, width).transpose(1, 2).reshape(1, width, side, side)
    if time <= side:
        grid = grid[:, :, :, int(side / 2) - int(time / 2) : int(side / 2) - int(time / 2) + time]
    else:
        grid = torch.nn.functional.interpolate(grid, size=(side, time), mode="bilinear")
    if frequency <= side:
        grid = grid[:, :, int(side / 2) - int(frequency / 2) : int(side / 2) - int(frequency / 2) + frequency, :]
    else:
        grid = torch.nn.functional.interpolate(grid, size=(frequency, time), mode="bilinear")
    grid = grid.reshape(1, width, frequency * time).transpose(1, 2)
    return torch.cat([tensors["pos_embed"][:, :2, :], grid], dim=1)


@pytest.mark.parametrize(
    ("arguments", "frequency", "time"),
    [((), 12, 101), (("--max-length", "128"), 12, 12), (("--stride", "8", "16", "--max-length", "200"), 15, 12)],
)
def test_a_distilled_deit_becomes_what_the_original_makes_of_it(
    arguments: tuple[str, ...], frequency: int, time: int, tmp_path: Path
) -> None:
    tensors = random_vit(192, 14, distilled=True)
    folder = init(tmp_path, tensors, "--size", "tiny224", *arguments)
    weights = load_checkpoint(str(folder)).weights
    assert torch.allclose(weights[POSITIONS], originals_positions(tensors, 14, frequency, time), atol=1e-6)
    assert torch.allclose(weights[PATCHES], tensors["patch_embed.proj.weight"].sum(dim=1, keepdim=True))
    query = weights["audio_spectrogram_transformer.encoder.layer.7.attention.attention.query.weight"]
    assert torch.equal(query, tensors["blocks.7.attn.qkv.weight"][:192])


def test_a_plain_vit_gets_a_second_class_token(tmp_path: Path) -> None:
    tensors = random_vit(384, 14, distilled=False)
    checkpoint = load_checkpoint(str(init(tmp_path, tensors, "--size", "small224", "--max-length", "160")))
    embeddings = "audio_spectrogram_transformer.embeddings."
    for name in ("cls_token", "distillation_token"):
        assert torch.equal(checkpoint.weights[embeddings + name], tensors["cls_token"])
    assert torch.equal(checkpoint.weights[POSITIONS][:, 0], tensors["pos_embed"][:, 0])
    assert torch.equal(checkpoint.weights[POSITIONS][:, 1], tensors["pos_embed"][:, 0])


def test_transformers_loads_it_ready_for_fine_tuning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = init(tmp_path, random_vit(192, 14, distilled=True), "--size", "tiny224", "--max-length", "64")
    assert "5,308,416" in capsys.readouterr().out, "12 L d2 stands beside the parameters"
    model, report = ASTForAudioClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.id2label == {0: "cat", 1: "dog", 2: "rain"}
    assert model.config.problem_type == "single_label_classification"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        assert ASTFeatureExtractor.from_pretrained(folder).max_length == 64
    loss = model(torch.zeros(2, 64, 128), labels=torch.tensor([0, 2])).loss
    loss.backward()
    assert torch.isfinite(loss)


def test_the_same_seed_gives_the_same_head(tmp_path: Path) -> None:
    heads = []
    for index, seed in enumerate(("1", "1", "2")):
        (tmp_path / str(index)).mkdir()
        folder = init(tmp_path / str(index), random_vit(192, 14, distilled=True), "--size", "tiny224", "--seed", seed)
        heads.append(load_checkpoint(str(folder)).weights["classifier.dense.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.slow
def test_base_prints_its_published_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = init(tmp_path, random_vit(768, 24, distilled=True), "--size", "base384", labels="\n".join(map(str, range(527))))
    printed = capsys.readouterr().out
    assert "84,934,656" in printed
    with torch.device("meta"):
        theirs = ASTForAudioClassification(ASTConfig(num_labels=527)).num_parameters()
    assert f"{theirs:,} parameters" in printed
    assert load_checkpoint(str(folder)).activation == "softmax"


def test_weights_of_another_size_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(random_vit(192, 14, distilled=True, num_layers=1), tmp_path / "vit.pth")
    (tmp_path / "labels.txt").write_text("a\nb")
    files = ["--vit", str(tmp_path / "vit.pth"), "--labels", str(tmp_path / "labels.txt"), str(tmp_path / "ast")]
    assert main(["init", "--size", "small224", *files]) == 3
    assert main(["init", "--size", "tiny224", "--max-length", "15", *files]) == 3
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "are not those of small224" in errors[0]
    assert "make no patches" in errors[1]
