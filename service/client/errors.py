"""From answers back to errors: the class that the server raised, and what only a client meets.

::

    ServiceError          see `service.errors` for what a server answers with
    ├── Unreachable       no connection, or it broke before there was an answer; worth another try
    ├── Disconnected      a live stream broke off; its results so far were delivered
    ├── BadAnswer         what answers is no Sonotag, or a newer one that this client does not understand
    └── ClientClosed      the client was closed before
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from http.client import responses

import pydantic

from service.answers import ErrorAnswer, ErrorBody
from service.errors import ServiceError, Unavailable

SHOWN_CHARACTERS = 200


class Unreachable(ServiceError):
    """There is no connection to the service, or it broke before the answer was there."""

    code = "unreachable"
    retryable = True


class Disconnected(ServiceError):
    """A live stream broke off. It can be begun again; what was sent and not answered is lost."""

    code = "disconnected"
    retryable = True


class BadAnswer(ServiceError):
    """The answer is none that a Sonotag gives."""

    code = "bad_answer"


class ClientClosed(ServiceError):
    """The client was closed, and does nothing any more."""

    code = "client_closed"

    def __init__(self) -> None:
        super().__init__("the client is closed: make another one")


def error_of(body: ErrorBody) -> ServiceError:
    """Return what the server raised. A code that this version does not know is a plain `ServiceError` with that code."""
    kind = next((kind for kind in _kinds(ServiceError) if kind.code == body.code and kind is not ClientClosed), ServiceError)
    error = kind(body.message, param=body.param, retry_after_s=body.retry_after_s)
    error.code, error.retryable = body.code, body.retryable
    return error


def response_error(status: int, headers: Mapping[str, str], content: bytes) -> ServiceError:
    """Return what an answer that is no success means.

    Args:
        status: The HTTP status.
        headers: By lower-case names; ``retry-after`` counts.
        content: The body: a Sonotag's error, or a page of a proxy that stands in front of it.
    """
    try:
        return error_of(ErrorAnswer.model_validate_json(content).error)
    except pydantic.ValidationError:
        reason = responses.get(status, "")
        message = f"the answer is {status} {reason}".rstrip() + " without an error of Sonotag"
    if status in (502, 503, 504):
        # A proxy whose service is away for a moment.
        told = headers.get("retry-after", "")
        return Unavailable(message, retry_after_s=float(told) if told.isdecimal() else None)
    shown = content[:SHOWN_CHARACTERS].decode("utf-8", "replace").strip()
    return BadAnswer(f"{message}: {shown}" if shown else message)


def connection_reason(error: BaseException) -> str:
    """Return why there is no connection, in words: a name that is not resolved is told from a machine that does not answer."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, socket.gaierror):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return f"its name cannot be resolved ({cause.strerror})"
    # Without the number that Python puts before it.
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _kinds(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _kinds(child)
