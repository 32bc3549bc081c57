"""Which files a command line means: files as they are named, folders with all that lies in them, `-` for standard input."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from service.errors import BodyTooLarge

STANDARD_INPUT = "-"
SPOOL_BYTES = 8 * 1024**2
"""What comes through a pipe is held in memory up to this size, three quarters of a minute of CD sound, then on disk."""
_COPY_BYTES = 1024**2
_TEXTS = ".txt .md .rst .pdf .htm .html .css .log .nfo .rtf .doc .docx .odt .xls .xlsx"
_TABLES = ".csv .tsv .json .jsonl .ndjson .parquet .xml .yaml .yml .toml .ini .cfg"
_PICTURES = ".png .jpg .jpeg .gif .bmp .webp .svg .tif .tiff .heic .ico .psd"
_NOTES = ".cue .m3u .m3u8 .pls .xspf .srt .vtt .lrc .textgrid .eaf .jams .sfk .asd"
_PROGRAMS = ".py .ipynb .js .sh .bat .zip .gz .bz2 .xz .7z .rar .tar .tgz .sha256 .md5"
OTHER_SUFFIXES = frozenset(f"{_TEXTS} {_TABLES} {_PICTURES} {_NOTES} {_PROGRAMS}".split())
"""Of files that are no sound. None of them is a name that sound has somewhere."""


@dataclass(frozen=True, slots=True)
class SoundFile:
    """A file to score.

    Attributes:
        name: As it is shown: the path that was given, and for what lies in a folder its path from there.
        path: Where it is; None for what came through a pipe.
        spooled: What came through a pipe.
        trouble: Why it cannot be read, where that is known already.
        is_found: Whether it lies in a folder that was named, and was not named itself.
    """

    name: str
    path: Path | None
    spooled: IO[bytes] | None = None
    trouble: OSError | None = None
    is_found: bool = False

    def open(self) -> IO[bytes]:
        """Open it, seekable, for reading.

        Raises:
            OSError: It is not there, or not readable.
        """
        if self.trouble is not None:
            raise self.trouble
        if self.spooled is not None:
            return self.spooled
        assert self.path is not None
        return self.path.open("rb")


def find_sound_files(paths: Iterable[str], max_bytes: int) -> list[SoundFile]:
    """Return the files that were named; blocks while it reads what comes through pipes.

    Folders are searched all the way down, in the order of names; hidden files, sockets and devices in them are left out, and
    links to folders are not followed. What is missing or locked is returned too: opening it says so.

    Args:
        paths: As given.
        max_bytes: The most that is read of a pipe.

    Raises:
        BodyTooLarge: More comes through a pipe.
        OSError: A pipe cannot be read.
    """
    files: list[SoundFile] = []
    for path in paths:
        if path == STANDARD_INPUT:
            files.append(SoundFile(path, None, _spool(sys.stdin.buffer, max_bytes)))
        elif Path(path).is_dir():
            files += _walk(path)
        elif is_pipe(path):
            with Path(path).open("rb") as pipe:
                files.append(SoundFile(printable(path), None, _spool(pipe, max_bytes)))
        else:
            files.append(SoundFile(printable(path), Path(path)))
    return files


def leave_out(files: Iterable[SoundFile]) -> tuple[list[SoundFile], list[SoundFile]]:
    """Return the files to be scored, and those in folders that are no sound by their names.

    What a file is its bytes tell, not its name; but texts, pictures and tables lie beside sound as a rule, and need not each be
    reported as sound that cannot be read. Any other name may be sound, and so may whatever was named itself.
    """
    kept: list[SoundFile] = []
    left: list[SoundFile] = []
    for file in files:
        is_other = file.is_found and file.path is not None and file.path.suffix.lower() in OTHER_SUFFIXES
        (left if is_other else kept).append(file)
    return kept, left


def is_pipe(path: str) -> bool:
    """Return whether a path is there and something that can only be read once: a named pipe, `/dev/stdin`, `<(command)`."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def printable(text: str) -> str:
    """Return a file's name as it can be shown and written as UTF-8: control characters and stray bytes escaped."""
    decoded = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in decoded)


def _walk(folder: str) -> Iterator[SoundFile]:
    locked: list[OSError] = []
    for root, folders, names in os.walk(folder, onerror=locked.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and (path.is_file() or not path.exists()):
                yield SoundFile(printable(str(path)), path, is_found=True)
    for error in locked:
        yield SoundFile(printable(str(error.filename)), None, trouble=error)


def _spool(pipe: IO[bytes], max_bytes: int) -> IO[bytes]:
    spooled = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115  # it lives as long as its SoundFile
    while data := pipe.read(_COPY_BYTES):
        spooled.write(data)
        if spooled.tell() > max_bytes:
            spooled.close()
            raise BodyTooLarge(f"more than {max_bytes} bytes come through a pipe (SONOTAG_MAX_BODY_BYTES)")
    spooled.seek(0)
    return spooled
