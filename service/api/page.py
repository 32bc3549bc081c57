"""The live page: the files of `service/web`, as they are, at `/` and under `/web/`.

Its addresses are relative, so that it works under any path of a proxy's.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB_FOLDER = Path(__file__).parents[1] / "web"

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Browsers run no module of another type, and what Python guesses depends on the machine's mime.types."""

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; object-src 'none'; "
    "frame-ancestors 'self'"
)
"""Nothing comes from elsewhere. Websockets are named because 'self' does not stand for them in every browser."""


class PageFiles(StaticFiles):
    """The page's files. A browser asks each time whether it has the current one: after an update no old module meets a new
    one, and the answer to that is 304 without a body."""

    def __init__(self) -> None:
        super().__init__(directory=WEB_FOLDER)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or that it has not changed."""
        response = await super().get_response(path, scope)
        content_type = CONTENT_TYPES.get(Path(path).suffix)
        if content_type and "content-type" in response.headers:
            response.headers["Content-Type"] = content_type
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if path == "index.html":
            response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page."""
    files = PageFiles()

    async def index(request: Request) -> Response:
        """The live page."""
        return await files.get_response("index.html", request.scope)

    async def file(request: Request, path: str) -> Response:
        """A file of the page's. A route and not a mount, so that the log and the metrics know it."""
        return await files.get_response(path, request.scope)

    app.add_api_route("/", index, include_in_schema=False)
    app.add_api_route("/web/{path:path}", file, include_in_schema=False)
