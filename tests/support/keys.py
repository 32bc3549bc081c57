"""A file of API keys, as `sonotag keys` writes it, and the keys themselves."""

from __future__ import annotations

from pathlib import Path

from service.access.key_file import changing_keys
from service.access.keys import Limits, Scope, make_key

CREATED = "2026-01-01T00:00:00+00:00"


def add_key(path: Path, name: str, *scopes: Scope, limits: Limits | None = None) -> str:
    """Add a key to a file, for clips and streams where no scope is named, and return it."""
    with changing_keys(path) as keys:
        text, key = make_key(name, frozenset(scopes or ("classify", "stream")), limits or Limits(), CREATED)
        keys.append(key)
    return text


def remove_key(path: Path, name: str) -> None:
    """Remove a key from a file."""
    with changing_keys(path) as keys:
        keys[:] = [key for key in keys if key.name != name]


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key or token."""
    return {"Authorization": f"Bearer {key}"}
