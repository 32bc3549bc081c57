"""Which version of Sonotag this is."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"
PROJECT: Final = Path(__file__).resolve().parents[1] / "pyproject.toml"


def read_version(project: Path = PROJECT) -> str:
    """Return what the installed package says, or, where a checkout runs without having been installed, its project file.

    Args:
        project: The file; one that is not there or is another project's says nothing.
    """
    try:
        return metadata.version("sonotag")
    except metadata.PackageNotFoundError:
        pass
    try:
        described = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        return UNKNOWN
    return str(described.get("version", UNKNOWN)) if described.get("name") == "sonotag" else UNKNOWN
