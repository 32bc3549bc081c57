"""How `sonotag classify` writes its answers: tables to read, JSON lines and CSV for programs."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import pydantic
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.answers import ClipAnswer, ErrorAnswer, ErrorBody, to_json
from service.streaming.messages import TagItem

PIPE_COLUMNS = 160
"""A pipe has no width; the usual 80 columns would break long names."""
BAR_COLUMNS = 20
CSV_COLUMNS = ("file", "kind", "start", "end", "label", "score", "error")
Row: TypeAlias = tuple[str, str, float | None, float | None, str | None, float | None, str | None]


class _File(pydantic.BaseModel):
    file: str


class FileAnswer(ClipAnswer, _File):
    """A line of `--json`: what REST answers, and which file it is about."""


class FileError(ErrorAnswer, _File):
    """A line of `--json` for a file that could not be scored."""


class ClipOutput(Protocol):
    """Turns what is known of one file into text for standard output."""

    def head(self) -> str:
        """Return what stands before the first file."""
        ...

    def answer(self, file: str, answer: ClipAnswer) -> str:
        """Return a file's answer, as whole lines."""
        ...

    def error(self, file: str, error: ErrorBody) -> str:
        """Return a file's error, as whole lines; empty where standard error says it."""
        ...


class JsonOutput:
    """One JSON object a line, one line a file."""

    def head(self) -> str:
        """See `ClipOutput`."""
        return ""

    def answer(self, file: str, answer: ClipAnswer) -> str:
        """See `ClipOutput`."""
        return to_json(FileAnswer.model_construct(file=file, **dict(answer))).decode() + "\n"

    def error(self, file: str, error: ErrorBody) -> str:
        """See `ClipOutput`."""
        return to_json(FileError(file=file, error=error)).decode() + "\n"


class CsvOutput:
    """RFC 4180 with a head: one row for each tag, window's tag, event and error; `kind` says which."""

    def head(self) -> str:
        """See `ClipOutput`."""
        return csv_text([CSV_COLUMNS])

    def answer(self, file: str, answer: ClipAnswer) -> str:
        """See `ClipOutput`."""
        return csv_text(answer_rows(file, answer))

    def error(self, file: str, error: ErrorBody) -> str:
        """See `ClipOutput`."""
        return csv_text(error_rows(file, error))


def answer_rows(file: str, answer: ClipAnswer) -> list[Row]:
    """Return a file's answer as rows of `CSV_COLUMNS`."""
    rows: list[Row] = [(file, "clip", 0.0, answer.duration, tag.label, tag.score, None) for tag in answer.tags]
    for window in answer.windows or ():
        rows += [(file, "window", window.start, window.end, tag.label, tag.score, None) for tag in window.tags]
    for event in answer.events or ():
        rows.append((file, "event", event.onset, event.offset, event.label, event.peak, None))
    return rows


def error_rows(file: str, error: ErrorBody) -> list[Row]:
    """Return a file's error as rows of `CSV_COLUMNS`."""
    return [(file, "error", None, None, None, None, error.message)]


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


class TableOutput:
    """Tables for people; colours on a terminal only."""

    def head(self) -> str:
        """See `ClipOutput`."""
        return ""

    def answer(self, file: str, answer: ClipAnswer) -> str:
        """See `ClipOutput`."""
        tables = [_tags_table(answer.tags)]
        if answer.windows is not None:
            rows = [(f"{window.start:.2f}", f"{window.end:.2f}", _in_line(window.tags)) for window in answer.windows]
            tables.append(_times_table(("start", "end", "tags"), rows))
        if answer.events is not None:
            spans = [
                (f"{event.onset:.2f}", f"{event.offset:.2f}", f"{event.label} {event.peak:.3f}") for event in answer.events
            ]
            tables.append(_times_table(("onset", "offset", "event, peak"), spans))
        return _render(lambda console: _print_file(console, file, answer.duration, tables))

    def error(self, file: str, error: ErrorBody) -> str:
        """See `ClipOutput`."""
        return ""


def _render(draw: Callable[[Console], None]) -> str:
    # Rendered to text first: whoever writes it out decides what a broken pipe means.
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else PIPE_COLUMNS, highlight=False)
    with console.capture() as capture:
        draw(console)
    return capture.get()


def _print_file(console: Console, file: str, duration: float, tables: list[Table]) -> None:
    console.print(Text.assemble((file, "bold"), f"  {duration:.2f} s"), soft_wrap=True)
    for table in tables:
        console.print(table)


def _in_line(tags: tuple[TagItem, ...]) -> str:
    return ", ".join(f"{tag.label} {tag.score:.3f}" for tag in tags)


def _tags_table(tags: tuple[TagItem, ...]) -> Table:
    table = Table("label", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for tag in tags:
        table.add_row(Text(tag.label), f"{tag.score:.3f}", Text("█" * round(BAR_COLUMNS * tag.score), style="green"))
    return table


def _times_table(columns: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(columns[0], justify="right", no_wrap=True)
    table.add_column(columns[1], justify="right", no_wrap=True)
    table.add_column(columns[2])
    for first, second, third in rows:
        table.add_row(first, second, Text(third))
    return table
