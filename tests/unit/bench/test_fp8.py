"""The trial of 8-bit floating point products: what is rounded, and what stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bench.fp8 import ALL, LARGEST, MLP, VARIANTS, Float8Linear, Variant, main, make_tagger, round_to_float8, score
from export.checkpoint import Checkpoint, load_checkpoint
from export.signals import check_signals
from service import exit_codes
from tests.support.checkpoints import LABELS, Spec, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("fp8") / "random", Spec(num_layers=3))


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder))


def replaced(checkpoint: Checkpoint, variant: Variant) -> list[str]:
    return [name for name, module in make_tagger(checkpoint, variant).named_modules() if isinstance(module, Float8Linear)]


def test_float8_keeps_three_bits_of_each_number_and_the_largest_whole() -> None:
    values = torch.tensor([-3.0, 1.5, 0.7, 0.11, 0.0])
    rounded = round_to_float8(values, values.abs().max())
    assert rounded[0] == -3.0
    assert rounded[-1] == 0.0
    assert torch.all((rounded - values).abs() <= values.abs() / 16)
    assert not torch.equal(rounded, values)


def test_what_is_beyond_a_fixed_scale_is_clipped_and_no_nan() -> None:
    assert torch.equal(round_to_float8(torch.tensor([5.0, -5.0]), torch.tensor(2.0)), torch.tensor([2.0, -2.0]))
    assert torch.equal(round_to_float8(torch.zeros(2), torch.tensor(0.0)), torch.zeros(2))
    assert LARGEST == 448.0


def test_a_variant_replaces_the_products_that_it_names(checkpoint: Checkpoint) -> None:
    assert len(replaced(checkpoint, Variant("all", ALL))) == 3 * 6
    assert replaced(checkpoint, Variant("MLP, not at the ends", MLP, skipped=1)) == [
        "encoder.layers.1.up",
        "encoder.layers.1.down",
    ]


def test_every_variant_scores_nearly_as_float32_and_none_exactly(checkpoint: Checkpoint) -> None:
    samples = checkpoint.architecture.window_samples
    scores = [score(make_tagger(checkpoint, variant), check_signals(samples), samples) for variant in VARIANTS]
    for other in scores[1:]:
        assert 0 < np.abs(other - scores[0]).max() < 0.2
        assert np.abs(other - scores[0]).mean() < 0.02


def test_the_command_says_of_every_variant_what_it_loses(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(5)
    names = [f"{index}.wav" for index in range(4)]
    for name in names:
        soundfile.write(tmp_path / name, generator.normal(0, 0.1, 16_000), 16_000)
    rows = [f"{name},{LABELS[index % 2]}" for index, name in enumerate(names)]
    (tmp_path / "clips.csv").write_text("\n".join(["file,label", *rows]))
    assert main(["--checkpoint", str(folder), "--clips", str(tmp_path)]) == exit_codes.OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(VARIANTS)
    assert lines[2].startswith("| none (float32) |  | ")
    assert all(line.split(" | ")[-1] in ("holds |", "out |") for line in lines[3:])
    assert main(["--checkpoint", str(folder), "--clips", str(tmp_path / "none")]) == exit_codes.FAILURE
