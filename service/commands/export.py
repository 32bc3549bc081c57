"""`sonotag export`: run the exporter, which needs torch, as a process of its own.

The service never imports the exporter: an installation that only serves does not have what it needs.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import subprocess
import sys

from service import exit_codes
from service.child import python_module

NEEDS = ("torch", "transformers", "onnx", "onnxscript", "safetensors")
PASSES_EVERYTHING = True
"""Every argument after the command's name, `--help` too, belongs to the exporter: `service.cli` parses none of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: none, since all of them are passed on."""


def run(args: argparse.Namespace) -> int:
    """Run the exporter and return its exit code."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"sonotag export: {', '.join(missing)} missing; exporting needs the extra: pip install 'sonotag[export]'",
            file=sys.stderr,
        )
        return exit_codes.START
    child = python_module("export", *args.arguments)
    process = subprocess.Popen(child.command, env=dict(child.environ))
    # Control-C reaches both; the exporter cleans up after itself and decides the exit code.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, previous)
    return code if code >= 0 else 128 - code
