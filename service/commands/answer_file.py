"""`--output FILE` of `sonotag classify`: answers in a file, which a later run can go on with.

CSV and JSON lines are written file by file. A Parquet file is whole or not there at all, so its answers wait as JSON lines in a
hidden file beside it until all are known.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from service.commands.clip_output import CSV_COLUMNS, ClipOutput, CsvOutput, JsonOutput, csv_text
from service.commands.parquet_file import ParquetFile, require_parquet
from service.errors import InvalidParameter

JSON_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = (".csv", *JSON_SUFFIXES, ".parquet")

PART_FLAGS = {"windows": "--timeline", "events": "--events", "embedding": "--embedding"}
"""The parts of an answer that are there only where they are asked for, and with which flag."""
_KINDS = {"windows": "window", "events": "event"}
"""Their rows in CSV and Parquet."""

_CUT_CHARACTER = "\ufffd"


class AnswerFile(Protocol):
    """An open file of answers.

    Attributes:
        output: Turns what is known of a sound file into text.
        done: The sound files that are answered in it, by their names as shown.
        doubt: What should be said of what is in it already; empty as a rule.
    """

    output: ClipOutput
    done: frozenset[str]
    doubt: str

    def write(self, text: str) -> None:
        """Add what `output` made of one sound file.

        Raises:
            OSError: It cannot be written.
        """
        ...

    def finish(self) -> None:
        """Bring it into its last form: all is known.

        Raises:
            OSError: It cannot be written.
        """
        ...

    def close(self) -> None:
        """Close it, finished or not."""
        ...


def check_output(path: Path, *, resume: bool) -> None:
    """Refuse what can be refused before the model is loaded.

    Raises:
        InvalidParameter: The name tells no format, or the file is there and must not be gone on with.
        StartError: The format needs what is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidParameter(f"--output is {path.name}; its name must end with one of {', '.join(SUFFIXES)}", param="output")
    if path.suffix.lower() == ".parquet":
        require_parquet()
    for there in (path, partial_path(path)):
        if not resume and there.exists():
            raise InvalidParameter(f"{there} is there already: --resume goes on with it, or remove it first", param="output")


def open_answers(path: Path, parts: frozenset[str]) -> AnswerFile:
    """Open a file for answers; go on with what is in it.

    What is not whole, because a run was ended while it wrote, is taken out, and so are errors: those files are tried again.

    Args:
        path: Where it is or will be.
        parts: What answers will have, of `PART_FLAGS`. A file whose answers have others, as far as they tell, is not gone on
            with.

    Raises:
        InvalidParameter: What is there was not written by this command, or not with these parts.
        OSError: It cannot be read or written.
    """
    if path.suffix.lower() == ".parquet":
        return _ParquetAnswers(path, parts)
    if path.suffix.lower() == ".csv":
        return _TextAnswers(path, parts, CsvOutput(), _answered_rows, _check_rows)
    return _TextAnswers(path, parts, JsonOutput(), _answered_lines, _check_lines)


def partial_path(path: Path) -> Path:
    """Return where the answers of a Parquet file wait; hidden, so that a search of the folder does not find it."""
    return path.with_name(f".{path.name}.partial")


class _Answered(NamedTuple):
    """A sound file that is answered: the text about it, and the parts that this shows, or kinds of rows."""

    file: str
    text: str
    shown: frozenset[str]


ReadAnswers = Callable[[IO[str], bool], Iterator[_Answered]]
"""Takes a file and whether it ends with a whole line."""
CheckParts = Callable[[Set[frozenset[str]], frozenset[str]], str]
"""Takes what answers show and the parts they should have; returns what should be said where they do not tell.

Raises:
    ValueError: They have other parts.
"""


def check_lines(shown: frozenset[str], parts: frozenset[str]) -> None:
    """Refuse to go on with answers that have other parts, in a form that shows all of them.

    Raises:
        ValueError: They have.
    """
    for part, flag in PART_FLAGS.items():
        if (part in shown) != (part in parts):
            raise ValueError(f"it was made {'with' if part in shown else 'without'} {flag}; the flags must be the same")


def check_rows(kinds: frozenset[str], parts: frozenset[str]) -> str:
    """Refuse to go on with rows that have other parts; return what should be said where they do not tell.

    Raises:
        ValueError: They have.
    """
    shown = frozenset(part for part, kind in _KINDS.items() if kind in kinds) | (parts & {"embedding"})  # in JSON only
    if "clip" not in kinds:  # nothing reached the threshold: what is not there need not have been left out
        shown |= parts
    is_doubtful = "events" in parts - shown
    # Of a clip that has a tag some window has it too; an event it need not have.
    check_lines(shown | {"events"} if is_doubtful else shown, parts)
    return "there is no event in it yet: where it was made without --events, begin another one" if is_doubtful else ""


class _TextAnswers:
    def __init__(self, path: Path, parts: frozenset[str], output: ClipOutput, read: ReadAnswers, check: CheckParts) -> None:
        self.output = output
        self.doubt = ""
        self.done: frozenset[str] = frozenset()
        if path.exists():
            self.done, self.doubt = _repair(path, parts, output, read, check)
        # Unbuffered: a run that is killed leaves whole answers behind.
        self._file = path.open("ab", buffering=0)
        if not self._file.tell():
            self.write(output.head())

    def write(self, text: str) -> None:
        rest = memoryview(text.encode())
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _ParquetAnswers:
    def __init__(self, path: Path, parts: frozenset[str]) -> None:
        self._table = ParquetFile(path)
        answered, kinds = self._table.answered()
        with _going_on_with(path):
            self.doubt = check_rows(kinds, parts)
        self._partial = partial_path(path)
        self._lines = _TextAnswers(self._partial, parts, JsonOutput(), _answered_lines, _check_lines)
        self.output: ClipOutput = self._lines.output
        self.done = self._lines.done | answered

    def write(self, text: str) -> None:
        self._lines.write(text)

    def finish(self) -> None:
        self._lines.finish()
        self._table.extend(self._partial)
        self._partial.unlink()

    def close(self) -> None:
        self._lines.close()


def _repair(
    path: Path, parts: frozenset[str], output: ClipOutput, read: ReadAnswers, check: CheckParts
) -> tuple[frozenset[str], str]:
    """Take out what is not whole; return what is answered, and what should be said of it."""
    repaired = path.with_name(f".{path.name}.repaired")
    done, shown = set[str](), set[frozenset[str]]()
    try:
        with _going_on_with(path):
            is_whole = _ends_whole(path)
            # A character that is cut in two can only be at the end, which is taken out.
            with (
                path.open(encoding="utf-8", errors="replace", newline="") as old,
                repaired.open("w", encoding="utf-8", newline="") as new,
            ):
                new.write(output.head())
                for answer in read(old, is_whole):
                    done.add(answer.file)
                    shown.add(answer.shown)
                    new.write(answer.text)
            doubt = check(shown, parts)
            repaired.replace(path)
    finally:
        with suppress(FileNotFoundError):
            repaired.unlink()
    return frozenset(done), doubt


@contextmanager
def _going_on_with(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, csv.Error) as error:
        raise InvalidParameter(f"{path} cannot be gone on with: {error}", param="output") from error


def _check_lines(shown: Set[frozenset[str]], parts: frozenset[str]) -> str:
    for parts_of_one in shown:
        check_lines(parts_of_one, parts)
    return ""


def _check_rows(shown: Set[frozenset[str]], parts: frozenset[str]) -> str:
    return check_rows(frozenset[str]().union(*shown), parts)


def _answered_lines(old: IO[str], is_whole: bool) -> Iterator[_Answered]:
    for number, line in enumerate(old, 1):
        if not is_whole and not line.endswith("\n"):
            return  # a run was ended while it wrote
        document = json.loads(line)
        if not isinstance(document, dict) or not isinstance(document.get("file"), str):
            raise ValueError(f"line {number} is no line of sonotag classify --json")
        if "error" not in document:
            yield _Answered(document["file"], line, frozenset(PART_FLAGS.keys() & document.keys()))


def _answered_rows(old: IO[str], is_whole: bool) -> Iterator[_Answered]:
    rows = csv.reader(old, strict=is_whole)
    if (head := next(rows, None)) is not None and tuple(head) != CSV_COLUMNS:
        raise ValueError(f"its first line is not {','.join(CSV_COLUMNS)}")
    last: tuple[str, list[list[str]]] | None = None
    for file, group in groupby(rows, key=lambda row: row[0] if row else ""):
        current = list(group)
        # The last line may be cut inside the name of the sound that the lines before it are about.
        is_cut = not is_whole and len(current[0]) == 1 and last is not None and last[0].startswith(file.rstrip(_CUT_CHARACTER))
        if last is not None and not is_cut and not _is_error(last[1]):
            yield _answered_by(*last)
        last = file, current
    if last is not None and is_whole and not _is_error(last[1]):
        yield _answered_by(*last)


def _answered_by(file: str, rows: list[list[str]]) -> _Answered:
    return _Answered(file, csv_text(rows), frozenset(row[1] for row in rows))


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        return not file.seek(0, os.SEEK_END) or (file.seek(-1, os.SEEK_END) >= 0 and file.read() == b"\n")


def _is_error(rows: list[list[str]]) -> bool:
    return any(len(row) < len(CSV_COLUMNS) or row[1] == "error" for row in rows)
