"""The pages for people: the live page at `/`, the REST interface at `/docs`, and their files, as they are, under `/web/`.

Their addresses are relative, so that they work under any path of a proxy's, and nothing comes from elsewhere, so that they work
without the internet. FastAPI's own `/docs` takes Swagger UI from a content delivery network; ours takes it from a package.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB_FOLDER = Path(__file__).parents[1] / "web"
SWAGGER_UI = ("fastapi_offline", "static")
"""The package that carries Swagger UI, and the folder in it. Of the package nothing but these files is used."""

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Browsers run no module of another type, and what Python guesses depends on the machine's mime.types."""

_NOTHING_ELSE = "default-src 'self'; base-uri 'none'; form-action 'self'; object-src 'none'; frame-ancestors 'self'"
CONTENT_SECURITY_POLICIES = {
    "index.html": f"{_NOTHING_ELSE}; connect-src 'self' ws: wss:",
    "docs.html": f"{_NOTHING_ELSE}; img-src 'self' data:; style-src 'self' 'unsafe-inline'",
}
"""Nothing comes from elsewhere. Websockets are named because 'self' does not stand for them in every browser; Swagger UI has
its pictures and some styles inside."""


class PageFiles(StaticFiles):
    """The pages' files. A browser asks each time whether it has the current one: after an update no old module meets a new
    one, and the answer to that is 304 without a body."""

    def __init__(self) -> None:
        super().__init__(directory=WEB_FOLDER, packages=[SWAGGER_UI])

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or that it has not changed."""
        response = await super().get_response(path, scope)
        content_type = CONTENT_TYPES.get(Path(path).suffix)
        if content_type and "content-type" in response.headers:
            response.headers["Content-Type"] = content_type
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if policy := CONTENT_SECURITY_POLICIES.get(path):
            response.headers["Content-Security-Policy"] = policy
        return response


def add_page(app: FastAPI) -> None:
    """Serve the pages."""
    files = PageFiles()

    async def index(request: Request) -> Response:
        """The live page."""
        return await files.get_response("index.html", request.scope)

    async def docs(request: Request) -> Response:
        """The REST interface."""
        return await files.get_response("docs.html", request.scope)

    async def file(request: Request, path: str) -> Response:
        """A file of the pages. A route and not a mount, so that the log and the metrics know it."""
        return await files.get_response(path, request.scope)

    app.add_api_route("/", index, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.add_api_route("/web/{path:path}", file, include_in_schema=False)
