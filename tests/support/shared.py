"""The folder `shared` beside the checkout: models and labelled clips that are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def shared_path(*parts: str) -> Path:
    """Return a path under the shared folder; skip the test where there is none, except in CI, where that is a failure."""
    path = REPOSITORY.parent.joinpath("shared", *parts)
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is missing, and in CI it must be there")
        pytest.skip(f"needs {path.name} in the folder shared beside the checkout")
    return path
