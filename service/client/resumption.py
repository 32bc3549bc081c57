"""How a stream whose connection broke goes on over another one: the server is asked for it for as long as it keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from service.answers import ErrorBody
from service.client.connection import parse_server_message
from service.client.errors import Disconnected, error_of
from service.client.retry import Retry
from service.errors import ServiceError
from service.streaming.messages import ErrorMessage, Ready

RESUME_SECONDS: Final = 30.0
"""A server keeps a stream for so long by default (SONOTAG_RESUME_SECONDS)."""
READY_SECONDS: Final = 20.0
"""For a server to find the stream in another worker, and for the model to answer for what came before the break."""

Connect = Callable[[Mapping[str, str]], Awaitable[ClientConnection]]
"""Opens a connection, with a query."""


async def resume_stream(
    connect: Connect, retry: Retry, query: Mapping[str, str], broken: Disconnected
) -> tuple[ClientConnection, Ready]:
    """Return another connection over which the stream goes on, and what the server says of it.

    A refusal does not lose the stream: it is asked for again after the time that the refusal names, however it came, until a
    server would not have it any more.

    Args:
        connect: Opens a connection.
        retry: How long to wait between attempts.
        query: Where the stream broke.
        broken: How it broke.

    Raises:
        Disconnected: The server does not have the stream any more, or has no room for it in all this time.
    """

    async def attempt() -> tuple[ClientConnection, Ready]:
        socket = await connect(query)
        try:
            return socket, await _read_ready(socket)
        except BaseException:
            await socket.close()
            raise

    try:
        return await retry.run_for(RESUME_SECONDS, attempt)
    except ServiceError as error:
        message = f"{broken.message}, and could not go on: {error.message}"
        raise Disconnected(message, retry_after_s=error.retry_after_s) from error


async def _read_ready(socket: ClientConnection) -> Ready:
    """Wait for what the server says of the stream.

    Raises:
        ServiceError: It does not go on with it, or not now.
    """
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                message = parse_server_message(await socket.recv())
                if isinstance(message, Ready):
                    return message
                if isinstance(message, ErrorMessage):
                    raise error_of(ErrorBody.model_validate(message.model_dump(include=set(ErrorBody.model_fields))))
    except ConnectionClosed as error:
        raise Disconnected(f"the new connection broke off with {socket.close_code}") from error
    except TimeoutError as error:
        raise Disconnected(f"the server said nothing of it for {READY_SECONDS:g} s") from error
