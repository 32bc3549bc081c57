"""`/v1/stream`: admits a live stream, and is the websocket end of it."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, HTTPException, Request, WebSocket
from starlette.websockets import WebSocketDisconnect

from service.api.error_handlers import error_response
from service.api.middleware import new_id
from service.errors import Draining, NotReady, QueueFull
from service.logs import log_event, session_context
from service.services import Services
from service.streaming.driver import StreamDriver
from service.streaming.messages import ServerMessage

logger = logging.getLogger(__name__)
router = APIRouter()

SEND_SECONDS = 30.0
"""A client that takes nothing for this long is gone."""
OUTCOMES = {
    1000: "done",
    1001: "draining",
    1007: "bad_message",
    1011: "failed",
    4400: "bad_configuration",
    4408: "idle",
    4413: "too_large",
    4415: "unsupported",
    4429: "quota",
    4503: "overloaded",
}
DISCONNECTED = "disconnected"


@router.websocket("/v1/stream")
async def stream(websocket: WebSocket) -> None:
    """One live stream."""
    services: Services = websocket.app.state.services
    try:
        services.lifecycle.check_ready()
        if services.num_streams >= services.max_streams:
            raise QueueFull(
                f"{services.num_streams} streams are open, the limit is {services.max_streams} "
                f"({services.stream_limit.explanation})",
                retry_after_s=5.0,
            )
    except (Draining, NotReady, QueueFull) as error:
        reason = {"draining": "draining", "not_ready": "not_ready"}.get(error.code, "full")
        services.metrics.stream_refused(reason)
        log_event(logger, logging.INFO, "stream refused", reason=reason)
        await websocket.send_denial_response(error_response(error))
        return
    session_id = new_id()
    with session_context(session_id), services.tracer.begin("stream", websocket.headers.raw) as trace:
        driver = StreamDriver(services, SocketChannel(websocket), session_id)
        services.num_streams += 1
        try:
            with services.lifecycle.admit(driver.drain):
                services.metrics.stream_opened()
                await websocket.accept()
                await driver.run(websocket.query_params.multi_items())
        finally:
            services.num_streams -= 1
            code = driver.close_code
            outcome = DISCONNECTED if code is None else OUTCOMES.get(code, "failed")
            services.metrics.stream_closed(outcome)
            seconds = round(driver.session.received_seconds, 3)
            log_event(logger, logging.INFO, "stream closed", outcome=outcome, seconds=seconds)
            trace.describe(
                "/v1/stream", {"sonotag.id": session_id, "sonotag.outcome": outcome, "sonotag.received_seconds": seconds}
            )


@router.get("/v1/stream", include_in_schema=False)
async def explain(request: Request) -> None:
    """Tell a caller without an upgrade what this is."""
    raise HTTPException(426, "this is a websocket: connect with ws:// or wss://", {"Upgrade": "websocket"})


class SocketChannel:
    """A `Channel` that is a websocket.

    Args:
        websocket: Accepted before the first call.
    """

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes:
        """See `Channel`."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise ConnectionResetError(f"the client is gone: {message.get('code', 1006)}")
        text = message.get("text")
        frame: str | bytes = message["bytes"] if text is None else text
        return frame

    async def send(self, message: ServerMessage) -> None:
        """See `Channel`."""
        async with asyncio.timeout(SEND_SECONDS):
            try:
                await self._websocket.send_text(message.to_json())
            except WebSocketDisconnect as error:
                raise ConnectionResetError("the client is gone") from error

    async def close(self, code: int, reason: str) -> None:
        """See `Channel`."""
        async with asyncio.timeout(SEND_SECONDS):
            try:
                await self._websocket.close(code, reason)
            except WebSocketDisconnect as error:
                raise ConnectionResetError("the client is gone") from error
