"""Answers as a Parquet file: the rows and columns of the CSV, with types."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.clip_output import CSV_COLUMNS, FileAnswer, FileError, Row, answer_rows, error_rows
from service.errors import InvalidParameter, StartError

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP_ROWS = 100_000
"""20 MB in memory, and what a reader can skip at once."""
_NUMBERS = frozenset({"start", "end", "score"})


def require_parquet() -> None:
    """Check that Parquet can be written.

    Raises:
        StartError: The extra is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise StartError("Parquet needs the extra parquet: pip install 'sonotag[parquet]'")


class ParquetFile:
    """A Parquet file of answers, which may be there already.

    Args:
        path: Where it is or will be.

    Raises:
        InvalidParameter: What is there was not written by this command.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schema = _schema()

    def answered(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the sound files that are answered in it, and the kinds of its rows.

        Raises:
            InvalidParameter: It was not written by this command.
        """
        names, kinds = set[str](), set[str]()
        for table in self._tables():
            names.update(table.column("file").to_pylist())
            kinds.update(table.column("kind").to_pylist())
        return frozenset(names), frozenset(kinds)

    def extend(self, lines: Path) -> None:
        """Replace the file by one with its answers and those in a file of JSON lines; errors in it are left out.

        Raises:
            OSError: It cannot be written.
        """
        import pyarrow
        from pyarrow import parquet

        whole = self._path.with_name(f".{self._path.name}.new")
        try:
            with parquet.ParquetWriter(whole, self._schema) as writer:
                for table in self._tables():
                    writer.write_table(table)
                rows = _rows(lines)
                while group := list(islice(rows, ROW_GROUP_ROWS)):
                    columns = dict(zip(CSV_COLUMNS, zip(*group, strict=True), strict=True))
                    writer.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}, self._schema))
            whole.replace(self._path)
        finally:
            with suppress(FileNotFoundError):
                whole.unlink()

    def _tables(self) -> Iterator[pyarrow.Table]:
        """Yield what is there, without errors."""
        import pyarrow
        from pyarrow import compute, parquet

        if not self._path.exists():
            return
        try:
            with parquet.ParquetFile(self._path) as there:
                if there.schema_arrow != self._schema:
                    raise InvalidParameter(f"{self._path} was not written by sonotag classify", param="output")
                for batch in there.iter_batches(ROW_GROUP_ROWS):
                    table = pyarrow.Table.from_batches([batch])
                    yield table.filter(compute.not_equal(table.column("kind"), "error"))
        except pyarrow.ArrowInvalid as error:
            raise InvalidParameter(f"{self._path} is no Parquet file: {error}", param="output") from error


def _schema() -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema([(name, pyarrow.float64() if name in _NUMBERS else pyarrow.string()) for name in CSV_COLUMNS])


def _rows(lines: Path) -> Iterator[Row]:
    with lines.open(encoding="utf-8") as file:
        for line in file:
            if '"error":' in line and (failed := _read_error(line)) is not None:
                yield from error_rows(failed.file, failed.error)
            else:
                answer = FileAnswer.model_validate_json(line)
                yield from answer_rows(answer.file, answer)


def _read_error(line: str) -> FileError | None:
    try:
        return FileError.model_validate_json(line)
    except ValueError:  # an answer in which the word stands
        return None
