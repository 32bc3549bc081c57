"""What a proxy that is believed says of the connection to it."""

from __future__ import annotations

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

FORWARDED_HOST: Final = "sonotag.forwarded_host"
"""The key of a connection's scope for the host that a proxy was asked for."""


class ForwardedHeaders:
    """Believes X-Forwarded-For and X-Forwarded-Proto, as uvicorn does, and X-Forwarded-Host, which uvicorn leaves alone.

    The host is not put in place of the one that was asked for: a page whose name suddenly means this machine may send any
    header, so that both have to be the service's.

    Args:
        app: What is wrapped.
        trusted: Proxies to believe: addresses or networks with commas between them, or `*`.
    """

    def __init__(self, app: ASGIApp, trusted: str) -> None:
        self._uvicorns = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type]  # uvicorn has ASGI types of its own

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "lifespan" and self.believes(scope["client"][0] if scope.get("client") else None):
            given = dict(scope["headers"]).get(b"x-forwarded-host", b"").decode("latin-1")
            scope[FORWARDED_HOST] = given.partition(",")[0].strip() or None
        await self._uvicorns(scope, receive, send)  # type: ignore[arg-type]

    def believes(self, address: str | None) -> bool:
        """Return whether a peer is one of the proxies; None is one on a unix socket."""
        return address in self._uvicorns.trusted_hosts
