"""The folder of files in which several workers count, so that any of them can answer a scrape for all.

prometheus_client maps these files and writes to them as to memory: on a file system without room that is no error but the death
of the worker (SIGBUS). So they lie in memory where a machine has a file system there, not beside the uploads, which may fill
theirs; and a worker that begins has the room for all that it will count set aside, or does not begin.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Final

from service.errors import SettingsError, StartError

MULTIPROCESS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
PLACES: Final = ("/dev/shm", None)
"""Where a folder of one's own is made, the first that can be; None is the usual place of temporary files (TMPDIR)."""
# Measured with 14 routes (there are some 25), every status and two models: 28 and 53 KB; the gauges take 2.
_FILE_BYTES: Final = {"counter": 128 * 1024, "histogram": 256 * 1024, "gauge_livesum": 64 * 1024, "gauge_livemax": 64 * 1024}
_LASTING: Final = ("counter", "histogram")


def prepare_metrics_folder(environ: MutableMapping[str, str]) -> Path | None:
    """Make the folder that PROMETHEUS_MULTIPROC_DIR names, without the files of an earlier run: they would be added up.

    Returns:
        The folder, or None where the variable is not set.

    Raises:
        SettingsError: It cannot be made or emptied.
    """
    if not environ.get(MULTIPROCESS_VARIABLE):
        environ.pop(MULTIPROCESS_VARIABLE, None)
        return None
    folder = Path(environ[MULTIPROCESS_VARIABLE])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.db"):
            file.unlink()
    except OSError as error:
        raise SettingsError(f"{MULTIPROCESS_VARIABLE} is {str(folder)!r}: {os.strerror(error.errno or 0)}") from error
    return folder


@contextlib.contextmanager
def metrics_folder(environ: MutableMapping[str, str], places: Sequence[str | None] = PLACES) -> Iterator[Path]:
    """Have the folder that PROMETHEUS_MULTIPROC_DIR names, or one of one's own that goes with the context.

    Args:
        environ: Of this process; an empty variable is taken out.
        places: See `PLACES`.

    Raises:
        SettingsError: It cannot be had.
    """
    named = prepare_metrics_folder(environ)
    folder = named or _make_folder(places)
    try:
        yield folder
    finally:
        if named is None:
            shutil.rmtree(folder, ignore_errors=True)


def _make_folder(places: Sequence[str | None]) -> Path:
    reason: str | None = None
    for place in places:
        try:
            return Path(tempfile.mkdtemp(prefix="sonotag-metrics-", dir=place))
        except OSError as error:
            reason = error.strerror
    raise SettingsError(
        f"no folder can be made for the metrics of several workers: {reason} (TMPDIR, or {MULTIPROCESS_VARIABLE} names one)"
    )


def set_aside_files(folder: str) -> None:
    """Have the room for this process's files set aside, before the library opens them.

    Raises:
        StartError: There is none.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    # Renamed when it is whole: a scrape reads whatever ends in .db, and cannot read an empty one.
    new = Path(folder, f"{os.getpid()}.new")
    try:
        for kind, num_bytes in _FILE_BYTES.items():
            with new.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            new.rename(_file_of(folder, kind, os.getpid()))
    except OSError as error:
        for file_name in (new, *(_file_of(folder, kind, os.getpid()) for kind in _FILE_BYTES)):
            file_name.unlink(missing_ok=True)
        raise StartError(
            f"a worker's metrics need {sum(_FILE_BYTES.values()) // 1024} KiB in {folder}: {os.strerror(error.errno or 0)} "
            f"({MULTIPROCESS_VARIABLE})"
        ) from error


def forget_worker(folder: Path, pid: int) -> None:
    """Take a dead worker's live gauges out of the folder; its counts stay, since they did happen, without room for more."""
    for kind in _FILE_BYTES:
        with contextlib.suppress(OSError):
            if kind not in _LASTING:
                _file_of(folder, kind, pid).unlink()
                continue
            with _file_of(folder, kind, pid).open("r+b") as file:
                (used,) = struct.unpack("i", file.read(4))  # Source: prometheus_client.mmap_dict
                file.truncate(max(used, 8))


def _file_of(folder: str | Path, kind: str, pid: int) -> Path:
    return Path(folder, f"{kind}_{pid}.db")
