"""Programs that tests run beside Python; `.ci/run` installs them."""

from __future__ import annotations

import os
import shutil

import pytest


def find_program(name: str, *, package: str | None = None) -> str:
    """Return where a program is; skip the test without it, except in CI, where that is a failure.

    Args:
        name: The program's.
        package: Debian's package that has it; None where it bears the same name.
    """
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin")  # where Debian keeps nginx
    if program is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and in CI it must be")
        pytest.skip(f"needs {name} (Debian package {package or name})")
    return program
