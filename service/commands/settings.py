"""`sonotag settings`: every setting with its value, where it came from, and what it means."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from service import exit_codes
from service.commands.setting_flags import add_setting_flags, read_settings
from service.settings_source import SettingRow, explain, format_markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print a JSON array, for programs")
    output.add_argument("--markdown", action="store_true", help="print a table without values, for documents")
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Print the settings.

    Raises:
        SettingsError: A value is not allowed.
    """
    rows = explain(read_settings(args))
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
    elif args.markdown:
        print(format_markdown(rows))
    else:
        _print_table(rows)
    return exit_codes.OK


def _print_table(rows: list[SettingRow]) -> None:
    table = Table("setting", "value", "from", "meaning", highlight=False)
    for row in rows:
        meaning = f"{row.meaning} ({row.allowed})"
        table.add_row(Text(row.name, no_wrap=True), Text(row.value, overflow="fold"), Text(row.origin), Text(meaning))
    console = Console()
    # A pipe has no width; 80 columns would break the names.
    Console(width=None if console.is_terminal else 160).print(table)
