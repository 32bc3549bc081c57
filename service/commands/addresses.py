"""Addresses of a network, as the command line takes and shows them."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

SCHEMES = ("http", "https", "rtsp", "rtsps")


def is_address(source: str) -> bool:
    """Return whether a source is an address of a network, not a file."""
    return source.partition("://")[0].lower() in SCHEMES and "://" in source


def without_secrets(url: str) -> str:
    """Return an address as it may be shown: without user, password, query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
