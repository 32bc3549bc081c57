"""Start a module of this installation as a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Child:
    """A command line and its environment."""

    command: tuple[str, ...]
    environ: Mapping[str, str]


def python_module(module: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Child:
    """Return how to run a module with this interpreter.

    The working folder is kept off the import path (``-P``): a user's folder named `service` or `export` must not be taken
    for ours. Where this package is no installed one, the folder it lies in is put on the path instead.
    """
    inherited = dict(os.environ if environ is None else environ)
    root = Path(__file__).resolve().parents[1]
    if root.name != "site-packages":
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, (inherited.get("PYTHONPATH"), str(root))))
    return Child((sys.executable, "-P", "-m", module, *arguments), inherited)
