"""`sonotag classify` over folders: into a file, in parallel, interrupted and gone on with."""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from service import exit_codes
from tests.support.app_server import AppServer, serving
from tests.support.command import run_sonotag, start_sonotag
from tests.support.rest import DOG, MUSIC, SPEECH, heard, wav
from tests.support.runners import FakeRunner

LABELS = (MUSIC, DOG, SPEECH)
NAMES = ("Silence", "Speech", "Music", "Dog")


def fill(folder: Path, count: int) -> list[str]:
    """Write so many sounds, each with one label, into folders; return their names as `classify` shows them."""
    for index in range(count):
        path = folder / f"part {index % 2}" / f"{index:03}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(heard((LABELS[index % 3], 1))))
    return sorted(str(path.relative_to(folder.parent)) for path in folder.rglob("*.wav"))


def expected(name: str) -> str:
    return NAMES[LABELS[int(Path(name).stem) % 3]]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_folder_goes_into_a_file_and_only_what_is_missing_is_added(
    suffix: str, fake_server: AppServer, tmp_path: Path
) -> None:
    names = fill(tmp_path / "sounds", 9)
    bad = tmp_path / "sounds" / "bad.dat"
    bad.write_text("no sound" * 100)
    output = f"sounds/answers{suffix}"  # among the sounds, for which it must not be taken
    command = ("classify", "--url", fake_server.url, "--top-k", "1", "--jobs", "3", "--output", output, "sounds")
    done = run_sonotag(*command, cwd=tmp_path)
    assert (done.code, done.output) == (exit_codes.FAILURE, "")
    first, last = done.errors.splitlines()
    assert first.startswith("sonotag classify: sounds/bad.dat: ")
    assert last == f"sonotag classify: {output}: 9 files scored, 1 failed"
    assert read(tmp_path / output) == [("sounds/bad.dat", None), *((name, expected(name)) for name in names)]

    again = run_sonotag(*command, cwd=tmp_path)
    assert again.code == exit_codes.USAGE
    assert "--resume" in again.errors

    bad.write_bytes(wav(heard((DOG, 1))))
    resumed = run_sonotag(*command, "--resume", cwd=tmp_path)
    assert resumed.code == exit_codes.OK
    assert resumed.errors == f"sonotag classify: {output}: 1 file scored, 9 there already\n"
    assert read(tmp_path / output) == [*((name, expected(name)) for name in names), ("sounds/bad.dat", "Dog")]


def test_what_lies_beside_the_sound_is_left_out_by_its_name_and_no_failure(fake_server: AppServer, tmp_path: Path) -> None:
    names = fill(tmp_path / "sounds", 2)
    for other in ("README.md", "cover.PNG", "part 0/labels.csv"):
        (tmp_path / "sounds" / other).write_text("no sound")
    command = ("classify", "--url", fake_server.url, "--json", "--top-k", "1")
    done = run_sonotag(*command, "sounds", cwd=tmp_path)
    assert done.code == exit_codes.OK
    assert [json.loads(line)["file"] for line in done.output.splitlines()] == names
    assert done.errors.startswith("sonotag classify: 3 files are left out as no sound by the name (.csv, .md, .png)")
    named = run_sonotag(*command, "sounds/README.md", cwd=tmp_path)
    assert named.code == exit_codes.FAILURE
    assert named.errors.startswith("sonotag classify: sounds/README.md: ")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no sound")
    nothing = run_sonotag(*command, "texts", cwd=tmp_path)
    assert nothing.code == exit_codes.FAILURE
    assert nothing.errors.endswith("sonotag classify: there is no other file in texts\n")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_interrupted_run_is_gone_on_with(suffix: str, fake_server: AppServer, tmp_path: Path) -> None:
    names = fill(tmp_path / "sounds", 40)
    output = tmp_path / f"answers{suffix}"
    growing = tmp_path / f".{output.name}.partial" if suffix == ".parquet" else output
    command = ("classify", "--top-k", "1", "--output", output.name, "sounds", "--jobs", "1", "--url")
    with serving(FakeRunner(delay_seconds=0.2)) as slow, start_sonotag(*command, slow.url, cwd=tmp_path) as process:
        try:
            while process.poll() is None and (not growing.exists() or growing.read_bytes().count(b".wav") < 2):
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        finally:
            process.kill()
    assert 2 <= growing.read_bytes().count(b".wav") < 40
    resumed = run_sonotag(*command, fake_server.url, "--resume", cwd=tmp_path)
    assert resumed.code == exit_codes.OK
    assert "there already" in resumed.errors
    assert read(output) == [(name, expected(name)) for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == [output.name, "sounds"]


def test_a_file_is_written_by_the_model_here_too_with_what_json_has(tmp_path: Path) -> None:
    fill(tmp_path / "sounds", 3)
    shown = run_sonotag("classify", "--json", "--embedding", "--top-k", "1", "sounds", cwd=tmp_path)
    done = run_sonotag("classify", "--output", "x.jsonl", "--embedding", "--top-k", "1", "sounds", cwd=tmp_path)
    assert (done.code, shown.code) == (exit_codes.OK, exit_codes.OK)
    written = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["file"] for line in written] == [json.loads(line)["file"] for line in shown.output.splitlines()]
    assert all(len(line["embedding"]) > 1 for line in written)
    other = run_sonotag("classify", "--output", "x.jsonl", "--resume", "sounds", cwd=tmp_path)
    assert (other.code, other.errors) == (
        exit_codes.USAGE,
        "sonotag classify: x.jsonl cannot be gone on with: it was made with --embedding; the flags must be the same\n",
    )
    nothing = run_sonotag("classify", "--output", "x.jsonl", "--resume", "--embedding", "sounds", cwd=tmp_path)
    assert (nothing.code, nothing.errors) == (
        exit_codes.OK,
        "sonotag classify: x.jsonl: 0 files scored, 3 there already\n",
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output", "x.txt"), ".parquet"),
        (("--output", "x.csv", "--json"), "--json"),
        (("--output", "x.csv", "--embedding"), "--embedding"),
        (("--resume",), "--output"),
        (("--jobs", "0"), "1 to 64"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_done(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    fill(tmp_path / "sounds", 1)
    done = run_sonotag("classify", *flags, "sounds", cwd=tmp_path)
    assert (done.code, done.output) == (exit_codes.USAGE, "")
    assert message in done.errors
    assert [path.name for path in tmp_path.iterdir()] == ["sounds"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "sounds", 1)
    done = run_sonotag("classify", "--output", "missing/x.csv", "sounds", cwd=tmp_path)
    assert (done.code, done.errors) == (
        exit_codes.FAILURE,
        "sonotag classify: missing/x.csv: No such file or directory\n",
    )


def read(path: Path) -> list[tuple[str, str | None]]:
    """Return each file with its first label."""
    if path.suffix == ".parquet":
        return [(row["file"], row["label"]) for row in parquet.read_table(path).to_pylist()]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [(row["file"], row["label"] or None) for row in csv.DictReader(file)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(line["file"], line["tags"][0]["label"] if "tags" in line else None) for line in lines]
