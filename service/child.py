"""Start a module of this installation as a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEPT_VARIABLES: Final = (
    "PATH",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "HOME",
    "TMPDIR",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONUSERBASE",
    "PYTHONNOUSERSITE",
    "PYTHONUTF8",
    "PYTHONWARNINGS",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPYCACHEPREFIX",
)
"""What finds the interpreter and its libraries; Python looks for a user's own packages under HOME."""
ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""OpenBLAS and OpenMP start their threads when they are loaded: a process with one may fork, and takes no more of the cores."""


@dataclass(frozen=True, slots=True)
class Child:
    """A command line and its environment."""

    command: tuple[str, ...]
    environ: Mapping[str, str]


def bare_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a process is told that works on what strangers sent: whoever takes it over finds no secret there.

    Args:
        environ: The service's.
    """
    return {name: environ[name] for name in KEPT_VARIABLES if name in environ} | ONE_THREAD


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
