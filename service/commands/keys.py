"""`sonotag keys`: make, list and revoke the API keys of a service (SONOTAG_API_KEYS_FILE), which reads them anew by itself.

A key is printed once, when it is made: the file keeps a hash of it. Run it as the user that the service runs as, who alone may
read the file.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from service import exit_codes
from service.access.key_file import changing_keys, read_keys
from service.access.keys import KEY_NAME, SCOPES, ApiKey, Limits, make_key
from service.commands.setting_flags import add_setting_flags, read_settings
from service.errors import SettingsError

DEFAULT_SCOPES = ("classify", "stream")
LIMIT_NAMES = ("max_streams", "requests_per_minute", "audio_seconds_per_day")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key and print it", allow_abbrev=False)
    create.add_argument("name", metavar="NAME", help="what the log will call it: letters, digits, . _ -")
    create.add_argument(
        "--scope",
        action="append",
        choices=SCOPES,
        help=f"what it is for, repeatable. Default: {' and '.join(DEFAULT_SCOPES)}",
    )
    create.add_argument("--max-streams", type=int, metavar="N", help="live streams at once. Default: no limit")
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="in any 60 s. Default: no limit")
    create.add_argument(
        "--audio-seconds-per-day", type=float, metavar="SECONDS", help="of sound in any 24 hours. Default: no limit"
    )
    shown = actions.add_parser("list", help="print the keys' names, scopes and limits", allow_abbrev=False)
    shown.add_argument("--json", action="store_true", help="print a JSON array, for programs")
    revoke = actions.add_parser("revoke", help="make a key, and all tokens made with it, useless", allow_abbrev=False)
    revoke.add_argument("name", metavar="NAME", help="of the key")
    for action in (create, shown, revoke):
        add_setting_flags(action, ["api_keys_file"])


def run(args: argparse.Namespace) -> int:
    """Change or print the keys.

    Raises:
        SettingsError: There is no file, it cannot be read or written, or has such a key already, or none to revoke.
    """
    path = read_settings(args, quiet=True).api_keys_file
    if path is None:
        raise SettingsError("name the file of keys: --api-keys-file FILE, or SONOTAG_API_KEYS_FILE")
    if args.action == "create":
        return _create(path, args)
    return _revoke(path, args.name) if args.action == "revoke" else _list(path, as_json=args.json)


def _create(path: Path, args: argparse.Namespace) -> int:
    limits = {name: getattr(args, name) for name in LIMIT_NAMES}
    for name, value in limits.items():
        if value is not None and not value > 0:
            return _complain(f"--{name.replace('_', '-')} is {value}; it must be above 0", exit_codes.USAGE)
    if not KEY_NAME.fullmatch(args.name):
        return _complain(f"{args.name!r} is no name for a key: up to 64 letters, digits, . _ and -", exit_codes.USAGE)
    scopes = frozenset(args.scope or DEFAULT_SCOPES)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    with changing_keys(path) as keys:
        if any(key.name == args.name for key in keys):
            raise SettingsError(f"there is a key called {args.name} already: revoke it first")
        text, key = make_key(args.name, scopes, Limits(**limits), created)
        keys.append(key)
    print(text)
    print(f"sonotag keys: {path} has a hash of it; it cannot be shown again", file=sys.stderr)
    return exit_codes.OK


def _revoke(path: Path, name: str) -> int:
    with changing_keys(path) as keys:
        if all(key.name != name for key in keys):
            raise SettingsError(f"there is no key called {name}")
        keys[:] = [key for key in keys if key.name != name]
    return exit_codes.OK


def _list(path: Path, *, as_json: bool) -> int:
    keys = read_keys(path)
    if as_json:
        rows = [
            {"name": key.name, "id": key.id, "scopes": sorted(key.scopes), "limits": _limits(key), "created": key.created}
            for key in keys
        ]
        print(json.dumps(rows, indent=2))
        return exit_codes.OK
    table = Table("name", "id", "scopes", "limits", "made", highlight=False)
    for key in keys:
        limits = ", ".join(f"{name} {value:g}" for name, value in _limits(key).items())
        table.add_row(key.name, key.id, ", ".join(sorted(key.scopes)), limits or "none", key.created)
    console = Console()
    Console(width=None if console.is_terminal else 160).print(table)
    return exit_codes.OK


def _limits(key: ApiKey) -> dict[str, float]:
    limits = {name: getattr(key.limits, name) for name in LIMIT_NAMES}
    return {name: value for name, value in limits.items() if value is not None}


def _complain(message: str, code: int) -> int:
    print(f"sonotag keys: {message}", file=sys.stderr)
    return code
