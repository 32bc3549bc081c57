"""One live stream from the client's side: frames go up in one task while messages come down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

import pydantic
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from service.answers import ErrorBody
from service.client.errors import BadAnswer, Disconnected, Unreachable, error_of, response_error
from service.client.sounds import PIECE_BYTES, Frame
from service.errors import Draining, ServiceError
from service.streaming.messages import (
    Configured,
    ErrorMessage,
    EventMessage,
    GoingAway,
    Ready,
    ServerMessage,
    Start,
    Stop,
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


async def open_stream(url: str, headers: Mapping[str, str]) -> ClientConnection:
    """Connect.

    Raises:
        ServiceError: What a refused upgrade is answered with, or `Unreachable`.
    """
    try:
        return await connect(
            url,
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
        raise BadAnswer(f"the server does not take websockets: {error}") from error
    except (OSError, TimeoutError, InvalidURI, EOFError) as error:
        raise Unreachable(f"no stream can be opened: {str(error) or type(error).__name__}") from error


async def run_stream(
    socket: ClientConnection, start: Start, frames: AsyncIterator[Frame]
) -> AsyncGenerator[ServerMessage, None]:
    """Send frames and yield what the server says to them, to the end.

    Where the caller does not take messages nothing is read, the server then reads no more either, and the next frame is
    asked for only when the network has taken the last one: nothing piles up.

    Args:
        socket: Open; closed at the end.
        start: The configuration.
        frames: Asked for in a task of its own.

    Raises:
        ServiceError: How the server ended the stream, where that was not in good order. Whatever it said before, its
            `error` message included, has been yielded.
        Exception: What the frames raised.
    """
    failures: list[Exception] = []
    sender = asyncio.create_task(_send(socket, start, frames, failures))
    fatal: ErrorMessage | None = None
    try:
        try:
            async for text in socket:
                message = parse_server_message(text)
                if isinstance(message, ErrorMessage) and message.fatal:
                    fatal = message
                if message is not None:
                    yield message
        except ConnectionClosed:
            pass  # the code says why
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        await socket.close()
    if failures:
        raise failures[0]
    if error := _ending(socket, fatal):
        raise error


async def _send(socket: ClientConnection, start: Start, frames: AsyncIterator[Frame], failures: list[Exception]) -> None:
    try:
        await socket.send(start.model_dump_json(exclude_none=True))
        async for frame in frames:
            if isinstance(frame, (bytes, bytearray, memoryview)):
                for first in range(0, len(frame), PIECE_BYTES):
                    await socket.send(frame[first : first + PIECE_BYTES])
            else:
                await socket.send(frame.model_dump_json(exclude_none=True))
        await socket.send(Stop(type="stop").model_dump_json())
    except ConnectionClosed:
        return  # whoever reads the messages learns why
    except Exception as error:  # noqa: BLE001  # whatever the caller's source raises, the caller gets
        failures.append(error)
        await socket.close()


def _ending(socket: ClientConnection, fatal: ErrorMessage | None) -> ServiceError | None:
    if fatal is not None:
        return error_of(ErrorBody.model_validate(fatal.model_dump(include=set(ErrorBody.model_fields))))
    code, reason = socket.close_code, socket.close_reason
    if code == 1000:
        return None
    if code == 1001:
        return Draining("the server went away; what was sent and not answered is lost")
    return Disconnected(f"the stream broke off with {code}" + (f": {reason}" if reason else ""))
