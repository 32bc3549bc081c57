"""What lasts is timed by a clock that nobody can set: a step of the wall clock must end no stream and free no quota."""

from __future__ import annotations

import ast
from pathlib import Path

import service

WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today")}
DATES = {"access/guard.py", "bench/benchmark.py", "bench/tuner.py", "commands/keys.py", "otel.py"}
"""What must know the date: the end of a token that several machines understand, when a key or a measurement was made, when a
span of a trace began."""


def takes_wall_clock(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if (owner, node.attr) in WALL_CLOCKS:
                return True
        if isinstance(node, ast.ImportFrom) and {(node.module, alias.name) for alias in node.names} & WALL_CLOCKS:
            return True
    return False


def test_the_time_of_day_is_asked_for_dates_alone() -> None:
    root = Path(service.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if takes_wall_clock(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == DATES
