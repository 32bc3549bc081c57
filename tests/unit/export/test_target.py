from pathlib import Path

import pytest

from export.errors import TargetError
from export.target import check_target, staged_folder

MARKER = "bundle.json"


def write(folder: Path, text: str) -> None:
    (folder / MARKER).write_text(text)


def test_a_finished_folder_takes_the_targets_place_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with staged_folder(target, MARKER) as folder:
        write(folder, "one")
        (folder / "model").touch(mode=0o600)
        assert not target.exists()
    assert (target / MARKER).read_text() == "one"
    assert (target.stat().st_mode & 0o777, (target / "model").stat().st_mode & 0o777) == (0o755, 0o644)
    with staged_folder(target, MARKER) as folder:
        write(folder, "two")
    assert (target / MARKER).read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]
    assert [path.name for path in target.iterdir()] == [MARKER]


def test_a_failure_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    write(target, "old")
    with pytest.raises(TargetError), staged_folder(target, MARKER) as folder:
        write(folder / "there is no such folder", "half")
    assert (target / MARKER).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_failure_of_a_first_export_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "bundle", MARKER):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TargetError, match=r"holds no bundle\.json"):
        check_target(tmp_path, MARKER)
    with pytest.raises(TargetError, match="is no folder"):
        check_target(tmp_path / "thesis.tex", MARKER)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(TargetError, match="is no folder"):
        check_target(tmp_path / "link", MARKER)


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "new", MARKER) as folder:
        write(folder, "x")
    (tmp_path / "empty").mkdir()
    with staged_folder(tmp_path / "empty", MARKER) as folder:
        write(folder, "y")
    assert (tmp_path / "empty" / MARKER).read_text() == "y"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="cannot be written"), staged_folder(tmp_path / "file" / "bundle", MARKER):
        pytest.fail("it was entered")
