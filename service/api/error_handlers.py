"""From errors to answers: one shape, one table, nothing of the machine in it."""

from __future__ import annotations

import math
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from service.answers import ErrorAnswer, ErrorBody, error_body
from service.errors import ServiceError

REFUSED = "sonotag.refused"
"""The key of a request's scope for the code of the error that it is answered with: `service.api.admission` writes it down."""
CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_request", 426: "upgrade_required"}


def error_response(error: ServiceError) -> JSONResponse:
    """Return the answer to a request that ended with an error; `Retry-After` where trying again can help."""
    headers = {}
    if error.http_status in (429, 503) and error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="sonotag"'
    return JSONResponse(ErrorAnswer(error=error_body(error)).model_dump(), error.http_status, headers)


def note_refusal(scope: Scope, code: str) -> None:
    """Have the audit log say that a request is answered with an error."""
    scope[REFUSED] = code


def _refuse(request: Request, error: ServiceError) -> JSONResponse:
    note_refusal(request.scope, error.code)
    return error_response(error)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return _refuse(request, error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail != phrase else f"{phrase}: {request.method} {request.url.path[:200]}"
    body = ErrorBody(code=CODES.get(error.status_code, "http_error"), message=detail)
    note_refusal(request.scope, body.code)
    return JSONResponse(ErrorAnswer(error=body).model_dump(), error.status_code, error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers. What none of them takes is `service.api.middleware`'s 500."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
