"""A checkout that was never installed still says which version it is."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from service.release import UNKNOWN, read_version
from tests.support.shared import REPOSITORY


def run_bare(argument: str) -> str:
    """Ask without the packages that are installed here (``-S``)."""
    code = f"from pathlib import Path; from service.release import read_version; print(read_version({argument}))"
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def test_an_installed_package_says_its_version() -> None:
    assert read_version() == metadata.version("sonotag")


def test_a_checkout_says_what_its_project_file_says() -> None:
    assert run_bare("") == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("text", [None, "[project", "[project]\nname = 'another'\nversion = '7'\n", "[tool]\n"])
def test_no_or_another_project_file_says_nothing(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    if text is not None:
        file.write_text(text)
    assert run_bare(f"Path({str(file)!r})") == UNKNOWN
