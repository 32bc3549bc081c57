"""The command line that the short measurements share: rounds, seconds, a file for the numbers, the table on standard output."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from service import exit_codes
from service.errors import SonotagError

T = TypeVar("T")


def run_measurement(
    name: str,
    measure: Callable[[argparse.Namespace], T],
    *,
    seconds: float,
    rounds: int = 3,
    to_numbers: Callable[[T], Mapping[str, object]],
    to_markdown: Callable[[T], str],
    add_flags: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> int:
    """Measure as the command line says, print the table and return the exit code.

    Args:
        name: The module, for messages.
        measure: Takes what the command line says: ``rounds``, ``seconds`` of each measurement, and what `add_flags` adds.
        seconds: How many by default.
        rounds: How many by default.
        to_numbers: What goes into the file, ready for JSON.
        to_markdown: The table.
        add_flags: Adds the flags that this one has and others have not.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"measurements of each ({rounds})")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"how long each takes ({seconds:g})")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the numbers there, as JSON")
    add_flags(parser)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service of its own ends with it, as at Control-C
    try:
        measured = measure(args)
    except SonotagError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return exit_codes.FAILURE
    write_numbers(args.output, to_numbers(measured))
    print(to_markdown(measured), end="")
    return exit_codes.OK


def write_numbers(file: Path | None, numbers: Mapping[str, object]) -> None:
    """Write a JSON object where a file is given; whoever reads it meanwhile finds the old one or the new one."""
    if file is None:
        return
    beside = file.with_name(f"{file.name}.new")
    beside.write_text(json.dumps(dict(numbers), indent=2) + "\n")
    beside.replace(file)
