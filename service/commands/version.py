"""`sonotag version`: this version and those of what it stands on."""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata

from service import exit_codes
from service.release import read_version

_SHOWN = ("onnxruntime-gpu", "onnxruntime", "numpy", "fastapi", "uvicorn", "websockets", "av", "soundfile", "soxr")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print a JSON object, for programs")


def run(args: argparse.Namespace) -> int:
    """Print the versions."""
    versions = {"sonotag": read_version()}
    for name in _SHOWN:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions["python"] = platform.python_version()
    if args.json:
        print(json.dumps(versions))
    else:
        print("\n".join(f"{name} {version}" for name, version in versions.items()))
    return exit_codes.OK
