"""Which pages may use the service from a browser, and under which names it is reached.

A browser lets any page send requests and open websockets to any address, also to one that only this machine can reach. Two
headers tell what it will not let a page forge: `Origin`, the page's own origin, and `Host`, the name that was asked for. A
page that had its own name point to this machine (DNS rebinding) is of the same origin as the service, but under a name that
is not the service's.

Source: RFC 6454 (origin), RFC 9110, section 7.2 (Host).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from service.errors import ForbiddenHost, ForbiddenOrigin

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SECURE: Final = frozenset({"https", "wss"})
_MAX_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of where it comes from and where to.

    Attributes:
        scheme: `http`, `https`, `ws` or `wss`, as the client uses it.
        host: The header `Host`; None where there is none, which no browser leaves out.
        forwarded_host: `X-Forwarded-Host` of a proxy that is believed.
        origin: The header `Origin`; None where there is none.
    """

    scheme: str
    host: str | None
    forwarded_host: str | None = None
    origin: str | None = None


def check_host(asked: Asked, allowed: Sequence[str], *, takes_addresses: bool) -> None:
    """Refuse a request for a name that is none of the service's.

    Args:
        asked: The request.
        allowed: Names besides those of the loopback: `name`, `*.domain` or `*`.
        takes_addresses: Whether a number is as good as a name: no page can have a number point elsewhere.

    Raises:
        ForbiddenHost: It is such a name.
    """
    for host in filter(None, (asked.host, asked.forwarded_host)):
        name = _name_of(host)
        if not (is_loopback(name) or _is_listed(name, allowed) or (takes_addresses and _address(name) is not None)):
            raise ForbiddenHost(
                f"the request is for the host {host[:_MAX_SHOWN]!r}, which this service is not known by (SONOTAG_ALLOWED_HOSTS)"
            )


def check_origin(asked: Asked, allowed: Sequence[str]) -> None:
    """Refuse a request of a page that may not use the service. What is no browser sends no origin.

    Args:
        asked: The request.
        allowed: Other origins than the service's own: `https://host[:port]`, or `*`.

    Raises:
        ForbiddenOrigin: It may not.
    """
    if asked.origin is None or "*" in allowed or asked.origin in allowed:
        return
    own = asked.forwarded_host or asked.host
    if own is not None and _split_origin(asked.origin) == _split(asked.scheme, own):
        return
    raise ForbiddenOrigin(f"pages of the origin {asked.origin[:_MAX_SHOWN]!r} may not use this service (SONOTAG_CORS_ORIGINS)")


@lru_cache(maxsize=16)  # the service has a few names; clients may make up as many as they like, and long ones
def is_loopback(name: str) -> bool:
    """Return whether a host name or address always means the machine it is used on."""
    name = name.lower().rstrip(".")
    address = _address(name)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


def _name_of(host: str) -> str:
    """Return a Host header's name, without its port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None


def _is_listed(name: str, allowed: Sequence[str]) -> bool:
    return any(
        entry in ("*", name) or entry.strip("[]") == name or (entry.startswith("*.") and name.endswith(entry[1:]))
        for entry in allowed
    )


def _split_origin(origin: str) -> tuple[bool, str, int] | None:
    scheme, separator, host = origin.partition("://")
    return _split(scheme, host) if separator else None


def _split(scheme: str, host: str) -> tuple[bool, str, int] | None:
    """Return whether it is encrypted, the name, and the port; None where that is no address at all."""
    if scheme not in _DEFAULT_PORTS:
        return None
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port
    except ValueError:
        return None
    return scheme in _SECURE, (parts.hostname or "").rstrip("."), port or _DEFAULT_PORTS[scheme]
