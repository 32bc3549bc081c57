"""One connection to `/v1/stream`: opened, and what comes over it read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

import pydantic
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from service.client.errors import BadAnswer, Unreachable, connection_reason, response_error
from service.streaming.messages import (
    Configured,
    ErrorMessage,
    EventMessage,
    GoingAway,
    Ready,
    ServerMessage,
    Summary,
    Tags,
    Warn,
)

SERVER_MESSAGES: Mapping[str, type[ServerMessage]] = {
    "ready": Ready,
    "configuration": Configured,
    "tags": Tags,
    "event": EventMessage,
    "warning": Warn,
    "error": ErrorMessage,
    "going_away": GoingAway,
    "summary": Summary,
}
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 3.0
"""For the server to confirm a close: one that holds the stream does not read that either."""
PONG_SECONDS = 600.0
"""A pong comes behind the sound that the system's buffers hold, and a server that waits with reading answers late."""


def parse_server_message(text: str | bytes) -> ServerMessage | None:
    """Parse one text frame; None for a type that this version does not know, which a newer server may send.

    Raises:
        BadAnswer: It is no message of a Sonotag.
    """
    try:
        document = json.loads(text)
        model = SERVER_MESSAGES.get(document["type"])
        return None if model is None else model.model_validate(document)
    except (ValueError, TypeError, KeyError, RecursionError, pydantic.ValidationError) as error:
        raise BadAnswer(f"the server sent no message of the protocol: {str(text)[:100]}") from error


async def open_stream(url: str, headers: Mapping[str, str], query: Mapping[str, str]) -> ClientConnection:
    """Connect.

    Args:
        url: Of the service's streams.
        headers: Sent beside those of the upgrade.
        query: Of the address; it may be empty.

    Raises:
        ServiceError: What a refused upgrade is answered with, or `Unreachable`.
    """
    try:
        return await connect(
            f"{url}?{urlencode(query)}" if query else url,
            additional_headers=dict(headers),
            open_timeout=CONNECT_SECONDS,
            close_timeout=CLOSE_SECONDS,
            ping_timeout=PONG_SECONDS,
            max_size=None,
        )
    except InvalidStatus as error:
        answer = error.response
        names = {name.lower(): value for name, value in answer.headers.raw_items()}
        raise response_error(answer.status_code, names, bytes(answer.body or b"")) from error
    except InvalidHandshake as error:
        if isinstance(error.__cause__, EOFError):
            raise Unreachable(f"no answer from {url}: the connection broke before there was one") from error
        raise BadAnswer(f"the server does not take websockets: {error}") from error
    except (OSError, TimeoutError, InvalidURI, EOFError) as error:
        raise Unreachable(f"no answer from {url}: {connection_reason(error)}") from error
