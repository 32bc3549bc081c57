"""Programs and libraries that tests run beside Python; `.ci/run` installs them. In CI all must be there."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from typing import NoReturn

import pytest


def find_program(name: str, *, package: str | None = None) -> str:
    """Return where a program is; skip the test without it, except in CI, where that is a failure.

    Args:
        name: The program's.
        package: Debian's package that has it; None where it bears the same name.
    """
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")  # where Debian keeps nginx
    if program is None:
        lack(name, package or name)
    return program


def find_library(name: str, *, package: str) -> str:
    """Return what a shared library is called; without it as `find_program` does.

    Args:
        name: The library's, without "lib".
        package: Debian's package that has it.
    """
    library = ctypes.util.find_library(name)
    if library is None:
        lack(f"lib{name}", package)
    return library


def lack(what: str, packages: str) -> NoReturn:
    """Skip the test for what is not installed, except in CI, where that is a failure.

    Args:
        what: The thing that is not there.
        packages: Debian's packages that have it, with spaces between them.
    """
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed, and in CI it must be (Debian: {packages})")
    pytest.skip(f"needs {what} (Debian: {packages})")
