"""`/v1/stream`: admits a live stream, and is the websocket end of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from fastapi import APIRouter, HTTPException, Request, WebSocket
from starlette.websockets import WebSocketDisconnect

from service.access.guard import Caller, Guard
from service.answers import error_body
from service.api.admission import asked_of, bearer_of
from service.api.error_handlers import error_response
from service.api.middleware import new_id
from service.api.protocol import LAST_WORD
from service.errors import InvalidParameter, ServiceError, Unavailable
from service.inference.catalog import Catalog
from service.inference.live_share import LivePlace
from service.logs import log_event, log_stream, session_context
from service.options import resolve_grid
from service.services import Services
from service.stream_place import StreamPlace
from service.streaming.channel import OtherSideLeft
from service.streaming.driver import StreamDriver
from service.streaming.messages import ErrorMessage, ServerMessage

logger = logging.getLogger(__name__)
router = APIRouter()

OUTCOMES = {
    1000: "done",
    1001: "draining",
    1007: "bad_message",
    1011: "failed",
    4400: "bad_configuration",
    4401: "unauthorised",
    4403: "origin",
    4408: "idle",
    4413: "too_large",
    4415: "unsupported",
    4429: "quota",
    4503: "overloaded",
}
DISCONNECTED = "disconnected"
PROTOCOL = "sonotag.v1"
"""The subprotocol that is answered with where it is offered beside a credential, which is then not sent back."""
BEARER_PROTOCOL = "sonotag.bearer."
"""What comes before a key or token in a subprotocol: a browser lets a page set no other header."""
SUBPROTOCOL = "sonotag.subprotocol"
"""The key of a connection's scope for the subprotocol to answer with."""


@router.websocket("/v1/stream")
async def stream(websocket: WebSocket) -> None:
    """One live stream."""
    services: Services = websocket.app.state.services
    session_id = new_id()
    place, live = StreamPlace(services.keeper, session_id, services.stream_limit), None
    try:
        try:
            services.lifecycle.check_ready()
            await place.take()
            services.lifecycle.check_ready()  # a drain may have begun meanwhile
            live = take_place(services.catalog, websocket.query_params)
        except Unavailable as error:
            reason = {"draining": "draining", "not_ready": "not_ready"}.get(error.code, "full")
            services.metrics.stream_refused(reason)
            log_event(logger, logging.INFO, "stream refused", reason=reason)
            await websocket.send_denial_response(error_response(error))
            return
        await _serve_stream(websocket, services, session_id, live)
    finally:
        if live is not None:
            live.release()
        place.leave()


@dataclass(slots=True)
class _Visit:
    """What is known of a stream when it is over."""

    live: LivePlace
    key: str | None = None
    driver: StreamDriver | None = None
    refusal: ServiceError | None = None

    @property
    def outcome(self) -> str:
        code = self.refusal.close_code if self.refusal else self.driver.close_code if self.driver else None
        return DISCONNECTED if code is None else OUTCOMES.get(code, "failed")


async def _serve_stream(websocket: WebSocket, services: Services, session_id: str, live: LivePlace) -> None:
    """Serve a stream for which there is a place, and say what became of it."""
    visit, started = _Visit(live), services.clock()
    with session_context(session_id), services.tracer.begin("stream", websocket.headers.raw) as trace:
        services.metrics.stream_opened()
        try:
            await _run_stream(websocket, services, session_id, visit)
        except ServiceError as error:
            visit.refusal = error
            await _refuse(websocket, error)
        finally:
            seconds = visit.driver.session.received_seconds if visit.driver else 0.0
            services.metrics.stream_closed(visit.outcome)
            log_stream(visit.key, visit.outcome, open_seconds=services.clock() - started, sound_seconds=seconds)
            fields: dict[str, str | float] = {"sonotag.id": session_id, "sonotag.outcome": visit.outcome}
            fields["sonotag.received_seconds"] = round(seconds, 3)
            trace.describe("/v1/stream", fields)


async def _run_stream(websocket: WebSocket, services: Services, session_id: str, visit: _Visit) -> None:
    """Let a stream in and run it to its end.

    Raises:
        ServiceError: It may not come in; nothing was accepted yet.
    """
    guard, headers = services.guard, websocket.headers
    guard.check_browser(asked_of(websocket.scope, headers))
    caller, subprotocol = _identify(websocket, guard)
    visit.key = caller.name
    guard.authorise(caller, websocket.scope["path"].removeprefix(websocket.scope.get("root_path", "")))
    async with guard.holding_stream(caller, session_id), guard.metering(caller) as meter:
        parking = services.parking.of(caller.key.id) if services.parking else None
        channel = SocketChannel(websocket, services.settings.send_seconds)
        driver = StreamDriver(services, channel, session_id, meter, parking, visit.live)
        with services.lifecycle.admit(driver.drain), services.catalog.users.joined(driver.drain):
            visit.driver = driver
            await websocket.accept(subprotocol)
            await driver.run(websocket.query_params.multi_items())


def _identify(websocket: WebSocket, guard: Guard) -> tuple[Caller, str | None]:
    """Return who opens a stream, and the subprotocol to answer with: browsers want one of those they have named.

    Raises:
        Unauthorised: They have no key or token, or none that is known.
    """
    offered: list[str] = websocket.scope.get("subprotocols", [])
    bearer = next((name for name in offered if name.startswith(BEARER_PROTOCOL)), None)
    answered = PROTOCOL if PROTOCOL in offered else bearer
    websocket.scope[SUBPROTOCOL] = answered
    credential = bearer_of(websocket.headers) or (bearer.removeprefix(BEARER_PROTOCOL) if bearer else None)
    if credential is None and (token := websocket.query_params.get("token")):
        return guard.identify(token, takes_keys=False), answered
    return guard.identify(credential), answered


async def _refuse(websocket: WebSocket, error: ServiceError) -> None:
    """Say why a stream may not come in: a browser is told nothing of an upgrade that is refused."""
    if isinstance(error, Unavailable):  # a drain that began meanwhile
        await websocket.send_denial_response(error_response(error))
        return
    channel = SocketChannel(websocket, websocket.app.state.services.settings.send_seconds)
    message = ErrorMessage(**error_body(error).model_dump(), fatal=True)
    with suppress(OSError, TimeoutError):
        await websocket.accept(websocket.scope.get(SUBPROTOCOL))
        await channel.send(message)
        await channel.close(error.close_code, error.code)


def take_place(catalog: Catalog, query: Mapping[str, str]) -> LivePlace:
    """Hold what a stream will ask of its model, as far as the query tells; `start` may still say something else.

    Raises:
        QueueFull: The open streams leave too little.
    """
    name = query.get("model")
    batcher = catalog.get(name if name in catalog.names else None)
    hop_samples = batcher.spec.hop_samples
    with suppress(ValueError, InvalidParameter):  # whatever is wrong, the session will say so
        window, hop = (float(query[key]) if key in query else None for key in ("window", "hop"))
        hop_samples = resolve_grid(batcher.spec, window, hop).hop_samples
    return batcher.live.take(batcher.spec.sample_rate / hop_samples)


@router.get("/v1/stream", include_in_schema=False)
async def explain(request: Request) -> None:
    """Tell a caller without an upgrade what this is."""
    raise HTTPException(426, "this is a websocket: connect with ws:// or wss://", {"Upgrade": "websocket"})


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

    async def receive(self) -> str | bytes:
        """See `Channel`."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            if message.get("code") in (1000, 1001):
                raise OtherSideLeft("the client has closed the stream")
            raise ConnectionResetError(f"the client is gone: {message.get('code', 1006)}")
        text = message.get("text")
        frame: str | bytes = message["bytes"] if text is None else text
        return frame

    async def send(self, message: ServerMessage) -> None:
        """See `Channel`."""
        await self._send({"type": "websocket.send", "text": message.to_json()})

    async def close(self, code: int, reason: str) -> None:
        """See `Channel`."""
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

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
