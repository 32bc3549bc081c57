import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.cli import main
from export.pipeline import bundle_name
from service.inference.bundle import open_bundle
from tests.support.checkpoints import Spec, random_tensors, random_vit, write_checkpoint
from tests.support.shared import REPOSITORY


def spoil_with_nan(folder: Path) -> None:
    tensors = random_tensors(Spec())
    tensors["classifier.dense.bias"][2] = float("nan")
    write_checkpoint(folder, tensors=tensors)


def spoil_by_truncation(folder: Path) -> None:
    path = write_checkpoint(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def spoil_with_another_architecture(folder: Path) -> None:
    path = write_checkpoint(folder) / "config.json"
    path.write_text(path.read_text().replace("audio-spectrogram-transformer", "whisper"))


def spoil_with_a_missing_tensor(folder: Path) -> None:
    tensors = random_tensors(Spec())
    del tensors["classifier.layernorm.bias"]
    write_checkpoint(folder, tensors=tensors)


def spoil_with_an_extra_tensor(folder: Path) -> None:
    write_checkpoint(folder, tensors=random_tensors(Spec()) | {"projector.weight": torch.zeros(2)})


def spoil_with_code(folder: Path) -> None:
    write_checkpoint(folder, tensors=random_tensors(Spec()) | {"x": Path("code")}, as_bin=True)


def spoil_with_labels(folder: Path) -> None:
    path = write_checkpoint(folder) / "config.json"
    path.write_text(path.read_text().replace('"4": "Silence"', '"5": "Silence"'))


def tell(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_with_nan, "classifier.dense.bias holds NaN"),
        (spoil_by_truncation, "model.safetensors is truncated"),
        (spoil_with_another_architecture, "architecture 'whisper'"),
        (spoil_with_a_missing_tensor, "lacks classifier.layernorm.bias"),
        (spoil_with_an_extra_tensor, "holds projector.weight"),
        (spoil_with_code, "holds pickled code"),
        (spoil_with_labels, "label ids must be 0 to 4"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_exported_is_one_line_and_leaves_the_old_bundle(
    spoil: object, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "source", tmp_path / "out" / "bundle"
    spoil(source)
    target.mkdir(parents=True)
    (target / "bundle.json").write_text("the old one")
    before = tell(target)
    assert main([str(source), str(target)]) == 3
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in out + err
    assert tell(target) == before
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]


def test_a_target_that_is_somebody_elses_folder_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").touch()
    assert main([str(write_checkpoint(tmp_path / "a")), str(tmp_path / "letters")]) == 5
    assert "it is not overwritten" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["dear.txt"]


def test_an_evaluation_folder_without_a_list_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write_checkpoint(tmp_path / "a")), str(tmp_path / "b"), "--eval", str(tmp_path)]) == 1
    assert "clips.csv cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a"],
        ["a", "b", "--precision", "fp8"],
        ["a", "b", "--precision", "fp32,"],
        ["a", "b", "--window", "0"],
        ["a", "b", "--window", "x"],
        ["a", "b", "--name", "a/b"],
        ["a", "b", "--std", "0"],
        ["a", "b", "--stride", "0", "10"],
        ["init", "out", "--size", "huge224", "--vit", "v", "--labels", "l"],
    ],
)
def test_a_wrong_argument_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_several_precisions_are_named_with_commas(tmp_path: Path) -> None:
    checkpoint = str(write_checkpoint(tmp_path / "a", Spec(num_layers=1)))
    assert main(["--precision", "fp32,int8,fp32", checkpoint, str(tmp_path / "b")]) == 0
    assert set(open_bundle(tmp_path / "b").manifest.precisions) == {"fp32", "int8"}


def test_a_failed_init_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(random_vit(192, 14, distilled=True, num_layers=2), tmp_path / "deit.pth")
    (tmp_path / "labels.txt").write_text("a\nb")
    files = ["--vit", str(tmp_path / "deit.pth"), "--labels", str(tmp_path / "labels.txt")]
    assert main(["init", str(tmp_path / "out"), "--size", "tiny224", *files]) == 3
    assert "lacks audio_spectrogram_transformer.encoder.layer.10" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("checkpoint", "bundle"),
    [
        ("MIT/ast-finetuned-audioset-10-10-0.4593", "ast-finetuned-audioset-10-10-0.4593"),
        ("my model (2)", "my-model-2-"),
        ("...", "model"),
    ],
)
def test_a_bundles_name_follows_its_checkpoints(checkpoint: str, bundle: str) -> None:
    assert bundle_name(checkpoint) == bundle


def export_offline(home: Path, name: str, target: Path) -> subprocess.CompletedProcess[str]:
    """Run the exporter with a cache of the hub, and no hub."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "export", name, str(target), "--precision", "fp32"]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_a_name_that_the_hub_does_not_have_is_refused_in_one_line(tmp_path: Path) -> None:
    missing = export_offline(tmp_path / "home", "someone/else", tmp_path / "out")
    assert missing.returncode == 3
    assert re.search(
        r"^error: 'someone/else' is no folder here and cannot be had from the hub: .+$", missing.stderr, re.MULTILINE
    )
    assert "Traceback" not in missing.stderr


@pytest.mark.slow
def test_a_name_on_the_hub_is_taken_from_its_cache(tmp_path: Path) -> None:
    home = tmp_path / "home"
    snapshots = home / "hub" / "models--someone--ast-small" / "snapshots"
    commit = "0123456789012345678901234567890123456789"
    write_checkpoint(snapshots / commit, Spec(num_layers=1))
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text(commit)
    found = export_offline(home, "someone/ast-small", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    assert "bundle 'ast-small', fp32" in found.stdout
    assert '"name": "someone/ast-small"' in (tmp_path / "out" / "bundle.json").read_text()
