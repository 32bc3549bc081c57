"""Writing a folder whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from export.errors import TargetError

_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
"""mkdtemp and safetensors write what only their owner can read; the service may run under another account."""


def check_target(target: Path, marker: str) -> None:
    """Refuse a target that exists and is not one of ours, before any work is done.

    Args:
        target: Where the folder is to be.
        marker: The file that a folder of ours holds; an empty folder is fine too.

    Raises:
        TargetError: It is a file, or a folder with something else in it.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise TargetError(f"{target} exists and is no folder")
    if target.is_dir() and any(target.iterdir()) and not (target / marker).is_file():
        raise TargetError(f"{target} exists and holds no {marker}: it is not overwritten")


@contextlib.contextmanager
def staged_folder(target: Path, marker: str) -> Iterator[Path]:
    """Give a folder to write to, and put it in the target's place only if all went well.

    It lies beside the target, so that the move is a rename. What was there before is kept until the new folder is in its
    place, and put back if that fails.

    Args:
        target: Where the folder is to be.
        marker: See `check_target`.

    Raises:
        TargetError: The target cannot be written.
    """
    check_target(target, marker)
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise TargetError(f"{target} cannot be written: {error.strerror}") from error
    try:
        fresh, old = staging / "new", staging / "old"
        fresh.mkdir(mode=_FOLDER_MODE)
        yield fresh
        for file in fresh.iterdir():
            file.chmod(_FILE_MODE)
        _replace(fresh, target, old)
    except OSError as error:
        raise TargetError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _replace(fresh: Path, target: Path, old: Path) -> None:
    had_one = target.exists()
    if had_one:
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if had_one:
            old.rename(target)
        raise
