"""The command line: a table of commands, of which only the one that is asked for is imported.

Exit codes are those of `service.exit_codes`: 0 done, 1 something failed, 2 wrong usage, 3 it cannot start as it is
configured, 4 ended before what was under way had finished, 5 a model hung, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, cast

from service import exit_codes
from service.commands.key_hint import add_hint
from service.errors import SonotagError, StartError


class CommandModule(Protocol):
    """What a module of `service.commands` offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit code."""
        ...


class Command(NamedTuple):
    """A command's name, the module that does it, and one line about it."""

    name: str
    module: str
    summary: str


COMMANDS: Final = (
    Command("serve", "service.commands.serve", "run the service"),
    Command("classify", "service.commands.classify", "say what is heard in files and folders"),
    Command("listen", "service.commands.listen", "say what is heard in a stream, as it comes"),
    Command("export", "service.commands.export", "turn a checkpoint into a bundle (needs the extra export)"),
    Command("bench", "service.commands.bench", "find out how many live streams this machine can take"),
    Command("keys", "service.commands.keys", "make, list and revoke API keys"),
    Command("settings", "service.commands.settings", "print every setting, where its value comes from and what it means"),
    Command("version", "service.commands.version", "print the version, and those of the libraries"),
)

_EPILOG = "Exit codes: 0 done, 1 something failed, 2 wrong usage, 3 it cannot start as configured, 4 cut off, 5 a model hung."


def run_command(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: The arguments after the program's name.
    """
    chosen = next((command for command in COMMANDS if argv and argv[0] == command.name), None)
    if chosen is None:
        return _explain(argv)
    module = cast(CommandModule, importlib.import_module(chosen.module))
    if getattr(module, "PASSES_EVERYTHING", False):
        return _run(module, argparse.Namespace(arguments=list(argv[1:])), chosen.name)
    parser = argparse.ArgumentParser(
        prog=f"sonotag {chosen.name}",
        description=module.__doc__,
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    try:
        args = parser.parse_args(argv[1:])
    except SystemExit as stop:
        return int(stop.code or 0)
    return _run(module, args, chosen.name)


def _run(module: CommandModule, args: argparse.Namespace, name: str) -> int:
    try:
        code = module.run(args)
        sys.stdout.flush()
    except StartError as error:
        print(f"sonotag {name}: {error}", file=sys.stderr)
        return exit_codes.START
    except SonotagError as error:
        print(f"sonotag {name}: {add_hint(error, str(error))}", file=sys.stderr)
        return exit_codes.FAILURE
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough (`| head`); the interpreter would complain while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.FAILURE
    return code


def _explain(argv: Sequence[str]) -> int:
    """Print the overview, for --help or because no command was named."""
    parser = argparse.ArgumentParser(
        prog="sonotag",
        description="Real-time audio tagging: clips over REST, live streams over a websocket.",
        epilog=f"sonotag COMMAND --help explains a command. {_EPILOG}",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        commands.add_parser(command.name, help=command.summary, add_help=False)
    try:
        parser.parse_args(list(argv))
    except SystemExit as stop:
        return int(stop.code or 0)
    return exit_codes.USAGE
