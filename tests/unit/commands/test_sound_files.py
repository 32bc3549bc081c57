from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.commands.sound_files import SPOOL_BYTES, find_sound_files, is_pipe, printable
from service.errors import BodyTooLarge

NO_LIMIT = 1 << 40
NOBODY = 65_534


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_folders_are_searched_in_order_and_files_stay_where_they_were_named(tmp_path: Path) -> None:
    make(tmp_path, "z.wav", "folder/b.wav", "folder/a/2.wav", "folder/a/1.wav", "folder/.git/x", "folder/.hidden")
    files = find_sound_files([str(tmp_path / "z.wav"), str(tmp_path / "folder")], NO_LIMIT)
    assert [Path(file.name).relative_to(tmp_path).as_posix() for file in files] == [
        "z.wav",
        "folder/b.wav",
        "folder/a/1.wav",
        "folder/a/2.wav",
    ]
    with files[0].open() as opened:
        assert opened.read() == b"z.wav"


def test_a_hidden_file_that_is_named_is_meant(tmp_path: Path) -> None:
    make(tmp_path, ".hidden.wav")
    (file,) = find_sound_files([str(tmp_path / ".hidden.wav")], NO_LIMIT)
    assert file.path == tmp_path / ".hidden.wav"


def test_pipes_in_a_folder_are_left_out_and_circles_are_not_walked(tmp_path: Path) -> None:
    make(tmp_path, "a.wav")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    assert [Path(file.name).name for file in find_sound_files([str(tmp_path)], NO_LIMIT)] == ["a.wav"]


def test_what_is_missing_is_found_out_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "dangling.wav").symlink_to("nowhere")
    files = find_sound_files([str(tmp_path), str(tmp_path / "missing.wav")], NO_LIMIT)
    assert len(files) == 2
    for file in files:
        with pytest.raises(FileNotFoundError):
            file.open()


@contextmanager
def without_privileges() -> Iterator[None]:
    """Nothing is locked for root: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_locked_folder_is_reported_and_the_rest_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.wav", "locked/b.wav")
    monkeypatch.chdir(tmp_path)  # nobody may not walk here from the root of the file system
    tmp_path.chmod(0o755)
    (tmp_path / "locked").chmod(0)
    try:
        with without_privileges():
            first, second = find_sound_files(["."], NO_LIMIT)
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert (first.name, second.name) == ("a.wav", "./locked")
    with pytest.raises(PermissionError):
        second.open()


@pytest.mark.parametrize("size", [10, SPOOL_BYTES + 1])
def test_standard_input_is_read_whole_and_can_be_sought(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * (size // 256) + b"e" * (size % 256)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    (file,) = find_sound_files(["-"], NO_LIMIT)
    assert file.name == "-"
    with file.open() as opened:
        assert opened.seek(0, 2) == size
        opened.seek(0)
        assert opened.read() == data


def test_a_pipe_without_end_is_not_read_for_ever() -> None:
    assert is_pipe("/dev/zero")
    with pytest.raises(BodyTooLarge, match=r"5000000 bytes .* \(SONOTAG_MAX_BODY_BYTES\)"):
        find_sound_files(["/dev/zero"], 5_000_000)


def test_only_what_is_there_and_read_once_is_a_pipe(tmp_path: Path) -> None:
    make(tmp_path, "a.wav")
    os.mkfifo(tmp_path / "pipe")
    assert [is_pipe(str(tmp_path / name)) for name in ("a.wav", "pipe", "missing", ".")] == [False, True, False, False]


def test_names_can_be_shown_whatever_they_hold() -> None:
    assert printable("Vögel, 鳥.wav") == "Vögel, 鳥.wav"
    assert printable("a\nb\x1b[31m.wav") == r"a\nb\x1b[31m.wav"
    assert printable(os.fsdecode(b"caf\xe9.wav")) == r"caf\xe9.wav"
