"""Around every HTTP request: its id, its one log line, its count and time, and the answer when something of ours breaks.

And around every connection the path under which a proxy serves it.
"""

from __future__ import annotations

import logging
import re
import secrets

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.error_handlers import error_response
from service.errors import ServiceError
from service.logs import QUIET_ROUTES, log_request, request_context
from service.services import Services
from service.tracing import NULL_TRACER

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
ROUTE = "sonotag.route"
"""The key of a request's scope for the route that it would have taken, had it been let in."""
CLIENT_CLOSED_REQUEST = 499
"""What nginx logs for a client that left before its answer; here also before the end of it."""


def new_id() -> str:
    """Return a random id for a request or session, 16 hexadecimal digits."""
    return secrets.token_hex(8)


def route_template(scope: Scope) -> str:
    """Return the template of the route that took a request, or `other`: a closed set, whatever paths clients send."""
    path = getattr(scope.get("route"), "path", None) or scope.get(ROUTE)
    return path if isinstance(path, str) and path else "other"


def route_path(scope: Scope) -> str:
    """Return a request's path without that of a proxy, as routes are written."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


class RequestContext:
    """Pure ASGI, so that streamed bodies are not buffered.

    Args:
        app: What is wrapped.
        services: Metrics and clock.
    """

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode("ascii") if REQUEST_ID.fullmatch(given) else new_id()
        started = self._services.clock()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode("ascii"))]
            await send(message)

        tracer = NULL_TRACER if scope["path"].endswith(QUIET_ROUTES) else self._services.tracer
        with request_context(request_id), tracer.begin("request", scope["headers"]) as trace:
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = CLIENT_CLOSED_REQUEST  # also where it had got the head
            except Exception:
                logger.exception("the request failed")
                if not status:
                    error = ServiceError("something went wrong on our side; the log knows it under this X-Request-Id")
                    await error_response(error)(scope, receive, send_with_id)
            finally:
                route, status = route_template(scope), status or CLIENT_CLOSED_REQUEST
                seconds = self._services.clock() - started
                self._services.metrics.request_finished(route, status, seconds)
                log_request(scope["method"], route, status, seconds)
                trace.describe(route, {"http.route": route, "http.response.status_code": status, "sonotag.id": request_id})


class RootPath:
    """Makes the service work under a path of a proxy's, whether the proxy takes that path off or leaves it on.

    Either way the application sees what ASGI asks for: `root_path`, and a `path` that begins with it. uvicorn's own option
    puts the prefix before every path, which a proxy that leaves it on would get twice; Starlette alone routes both, but
    redirects to where the proxy is not.
    Source: the ASGI specification, HTTP connection scope.

    Args:
        app: What is wrapped.
        root_path: `/path`, without a slash at the end.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        root, path = self._root_path, scope.get("path", "")
        if scope["type"] != "lifespan":
            is_left_on = path == root or path.startswith(root + "/")
            scope = {**scope, "root_path": root, "path": path if is_left_on else root + path}
        await self._app(scope, receive, send)
