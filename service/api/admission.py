"""The door of REST: an ASGI layer around every request that asks `service.access.guard` before anything else is done.

Websockets are asked in `service.api.websocket`, since what refuses them has to be told in a message. Only one for another path
is answered here, as a request would be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastapi import Request, WebSocket
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.guard import ANYBODY, NEEDED, PUBLIC, Caller
from service.access.origins import Asked
from service.api.error_handlers import REFUSED, error_response, note_refusal
from service.api.forwarded import FORWARDED_HOST
from service.api.middleware import ROUTE, route_path
from service.api.schemas import error_responses
from service.errors import NotFound, ServiceError
from service.logs import log_refusal
from service.services import Services

CALLER = "sonotag.caller"
"""The key of a request's scope for who asks."""
STREAM_PATH = "/v1/stream"
"""The only one of a websocket. Exactly this: a route's pattern also takes a line feed after its end."""
HEALTH = "/health/"
"""Probes ask for a pod or container by whatever it is called; what they are told is no secret."""
BEARER = "bearer "
SCHEME = re.compile(r"([A-Za-z]{1,20}) ")
REFUSALS = error_responses(
    {
        401: "No API key or token, or none that is known",
        403: "The key is not for this, or a page elsewhere asks",
        429: "The key's quota is used up; Retry-After says when to try again",
        503: "Not ready, draining or overloaded; Retry-After says when to try again",
    }
)
"""What the door answers with, and what the whole service does, for the OpenAPI description of what may want a key."""


def asked_of(scope: Scope, headers: Mapping[str, str]) -> Asked:
    """Return what a connection says of where it comes from and where to."""
    return Asked(
        scheme=scope["scheme"],
        host=headers.get("host"),
        forwarded_host=scope.get(FORWARDED_HOST),
        origin=headers.get("origin"),
    )


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """Return the credential of a header `Authorization: Bearer ...`."""
    value = headers.get("authorization", "")
    return value[len(BEARER) :].strip() if value.lower().startswith(BEARER) else None


def scheme_of(headers: Mapping[str, str]) -> str | None:
    """Return the scheme of a header `Authorization`; empty where it names none, for what stands there may be a key."""
    value = headers.get("authorization")
    if value is None:
        return None
    named = SCHEME.match(value)
    return named[1] if named else ""


def caller_of(request: Request) -> Caller:
    """Return who asks; the door has let them in."""
    caller = request.scope[CALLER]
    assert isinstance(caller, Caller)
    return caller


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an upgrade on a path that has none: a client that cannot read the answer has made a mistake in its program."""
    error = NotFound(f"Not Found: {route_path(scope)[:200]!r}; the websocket is at {STREAM_PATH}")
    log_refusal("stream", None, error.code, 0.0)
    await WebSocket(scope, receive, send).send_denial_response(error_response(error))


class Admission:
    """Lets requests in, or answers them, before the body is read; and writes down each that is refused, here or further in.

    Pure ASGI.

    Args:
        app: What is wrapped.
        services: The guard and the clock.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            if scope["type"] == "websocket" and route_path(scope) != STREAM_PATH:
                await _refuse_websocket(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        started = self._services.clock()
        headers = Headers(scope=scope)
        path = route_path(scope)
        scope[CALLER] = ANYBODY
        app = self._app
        try:
            if not path.isprintable():
                # A route's pattern also takes a line feed after its end, the tables of the guard do not.
                raise NotFound("Not Found: the path has characters that are in none of ours")
            if not path.startswith(HEALTH):
                self._services.guard.check_browser(asked_of(scope, headers))
            if self._services.guard.is_closed(path):
                raise NotFound(f"Not Found: {scope['method']} {path}")
            await self._authorise(scope, headers, path)
        except ServiceError as error:
            if path in NEEDED or path in PUBLIC:
                scope[ROUTE] = path
            note_refusal(scope, error.code)
            app = error_response(error)
        try:
            await app(scope, receive, send)
        finally:
            if REFUSED in scope and not path.startswith(HEALTH):  # a probe is no caller, and comes every few seconds
                log_refusal("request", scope[CALLER].name, scope[REFUSED], self._services.clock() - started)

    async def _authorise(self, scope: Scope, headers: Mapping[str, str], path: str) -> None:
        guard = self._services.guard
        if guard.is_public(path):
            return
        scope[CALLER] = caller = guard.identify(bearer_of(headers), scheme=scheme_of(headers))
        guard.authorise(caller, path)
        await guard.count_request(caller)
