"""The websocket end of a live stream."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from service.api.protocol import CONFIRMATION, FLOOD, LAST_WORD
from service.streaming.channel import OtherSideLeft
from service.streaming.messages import ServerMessage

CONFIRM_SECONDS = 5.0
"""How long a client may take to confirm a close; a stream whose client does not is kept like one whose connection broke."""


class SocketChannel:
    """A `Channel` that is a websocket.

    Args:
        websocket: Accepted before the first call.
        send_seconds: How long a client may take nothing.
    """

    def __init__(self, websocket: WebSocket, send_seconds: float) -> None:
        self._websocket = websocket
        self._send_seconds = send_seconds
        self._is_stuck = False
        self._confirmation: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def receive(self) -> str | bytes:
        """See `Channel`."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            if message.get("code") in (1000, 1001):
                raise OtherSideLeft("the client has closed the stream")
            raise ConnectionResetError(f"the client is gone: {message.get('code', 1006)}")
        if FLOOD in message:
            raise message[FLOOD]
        text = message.get("text")
        frame: str | bytes = message["bytes"] if text is None else text
        return frame

    async def send(self, message: ServerMessage) -> None:
        """See `Channel`."""
        await self._send({"type": "websocket.send", "text": message.to_json()})

    async def close(self, code: int, reason: str) -> None:
        """See `Channel`."""
        await self._send({"type": "websocket.close", "code": code, "reason": reason, CONFIRMATION: self._confirmation})

    async def has_arrived(self) -> bool:
        """See `Channel`. The client's own close answers ours; one that took nothing before takes no close either."""
        if self._is_stuck:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_SECONDS):
                return await self._confirmation
        return False

    async def _send(self, message: dict[str, object]) -> None:
        if self._is_stuck:
            message[LAST_WORD] = True
        try:
            async with asyncio.timeout(self._send_seconds):
                await self._websocket.send(message)
        except TimeoutError:
            self._is_stuck = True
            raise
        except WebSocketDisconnect as error:
            raise ConnectionResetError("the client is gone") from error
