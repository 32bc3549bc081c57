"""The README as tests read it: its examples, and its tables that follow from the code.

`python -m tests.support.readme` writes those tables anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import ServiceError
from service.settings import DEFAULT_BUNDLE, Settings
from service.settings_source import explain
from tests.support.shared import REPOSITORY

README = REPOSITORY / "README.md"
_BLOCK = re.compile(r"^<!-- (?P<marker>[a-z: ]+) -->\n```(?P<language>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    """A fenced block with a marker before it.

    Attributes:
        marker: What its comment says: `run`, `answer`, `run: export`, `rules`.
        language: Of the block.
        text: The block.
        line: Where it begins.
    """

    marker: str
    language: str
    text: str
    line: int


def read_examples() -> list[Example]:
    """Return the marked blocks in order."""
    text = README.read_text()
    return [
        Example(match["marker"], match["language"], match["text"], text.count("\n", 0, match.start("text")))
        for match in _BLOCK.finditer(text)
    ]


def read_example(marker: str, language: str) -> str:
    """Return the text of the one block with this marker and language."""
    [text] = [example.text for example in read_examples() if (example.marker, example.language) == (marker, language)]
    return text


def read_table(header: str) -> list[list[str]]:
    """Return the rows of the table whose first line is this, as cells without code marks."""
    lines = iter(README.read_text().splitlines())
    assert header in lines, f"the README has no table {header}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip("|"))
        rows.append([cell.strip() for cell in cells])
    return rows


def read_generated(name: str) -> str:
    """Return what stands between a generated part's comments."""
    match = _generated(name).search(README.read_text())
    assert match, f"the README has no part {name}"
    return match["body"]


def settings_table() -> str:
    """Return the table of settings as the code has them."""
    lines = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for row in explain(Settings(_env_file=None)):
        default = DEFAULT_BUNDLE if row.name == "SONOTAG_BUNDLES" else row.default
        lines.append(f"| `{row.name}` | {_code(default)} | {_cell(row.allowed)} | {_cell(row.meaning)} |")
    return "\n".join(lines) + "\n"


def service_errors() -> Iterator[type[ServiceError]]:
    """Yield every error that a user can be sent, in the order of the tree."""
    waiting: list[type[ServiceError]] = [ServiceError]
    while waiting:
        kind = waiting.pop(0)
        yield kind
        # The client's own errors are of the same tree, but no server sends them.
        waiting[:0] = [child for child in kind.__subclasses__() if child.__module__ == kind.__module__]


def errors_table() -> str:
    """Return the table of errors as the code has them."""
    lines = ["| code | status | close | retryable | meaning |", "|---|---|---|---|---|"]
    for kind in service_errors():
        meaning = "Our own fault." if kind is ServiceError else (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        retry = "yes" if kind.retryable else "no"
        lines.append(f"| `{kind.code}` | {kind.http_status} | {kind.close_code} | {retry} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


GENERATED = {"settings": settings_table, "errors": errors_table}


def _generated(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<head><!-- {name}: [^\n]*-->\n)(?P<body>.*?)(?P<foot><!-- /{name} -->)", re.DOTALL)


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write the generated parts."""
    text = README.read_text()
    for name, make in GENERATED.items():
        table = make()
        text, count = _generated(name).subn(lambda match, table=table: match["head"] + table + match["foot"], text)
        assert count == 1
    README.write_text(text)


if __name__ == "__main__":
    main()
