"""`/v1/stream`: admits a live stream and runs it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from fastapi import APIRouter, HTTPException, Request, WebSocket

from service.access.guard import Caller, Guard
from service.answers import error_body
from service.api.admission import STREAM_PATH, asked_of, bearer_of, scheme_of
from service.api.error_handlers import error_response
from service.api.middleware import new_id
from service.api.socket_channel import SocketChannel
from service.errors import InvalidParameter, ServiceError, Unavailable
from service.inference.catalog import Catalog
from service.inference.live_share import LivePlace
from service.logs import log_refusal, log_stream, session_context
from service.options import resolve_grid, whole_windows_per_second
from service.services import Services
from service.stream_place import StreamPlace
from service.streaming.driver import Demand, Resumption, StreamDriver
from service.streaming.messages import ErrorMessage

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
REFUSALS = ("draining", "not_ready", "unavailable")
"""Codes that are reasons of their own; whatever else is unavailable is full."""
PROTOCOL = "sonotag.v1"
"""The subprotocol that is answered with where it is offered beside a credential, which is then not sent back."""
BEARER_PROTOCOL = "sonotag.bearer."
"""What comes before a key or token in a subprotocol: a browser lets a page set no other header."""
SUBPROTOCOL = "sonotag.subprotocol"
"""The key of a connection's scope for the subprotocol to answer with."""


@router.websocket(STREAM_PATH)
async def stream(websocket: WebSocket) -> None:
    """One live stream."""
    services: Services = websocket.app.state.services
    session_id = new_id()
    visit = _Visit(StreamPlace(services.keeper, session_id, services.stream_limit))
    try:
        await _serve_stream(websocket, services, session_id, visit)
    finally:
        visit.leave()
        if visit.driver is not None:
            await visit.driver.wait_arrived()


@dataclass(slots=True)
class _Visit:
    """What is held for a connection, and what is known of it when it is over."""

    place: StreamPlace
    live: LivePlace | None = None
    key: str | None = None
    driver: StreamDriver | None = None
    refusal: ServiceError | None = None

    @property
    def outcome(self) -> str:
        code = self.refusal.close_code if self.refusal else self.driver.close_code if self.driver else None
        return DISCONNECTED if code is None else OUTCOMES.get(code, "failed")

    def leave(self) -> None:
        """Hold nothing any more."""
        if self.live is not None:
            self.live.release()
        self.place.leave()
        if self.driver is not None:
            self.driver.is_left.set()


async def _serve_stream(websocket: WebSocket, services: Services, session_id: str, visit: _Visit) -> None:
    """Serve a stream, or refuse it, and say what became of it."""
    started = services.clock()
    with session_context(session_id), services.tracer.begin("stream", websocket.headers.raw) as trace:
        try:
            await _run_stream(websocket, services, session_id, visit)
        except ServiceError as error:
            visit.refusal = error
            await _refuse(websocket, error)
        finally:
            seconds = visit.driver.session.received_seconds if visit.driver else 0.0
            _account(services, visit, open_seconds=services.clock() - started, sound_seconds=seconds)
            fields: dict[str, str | float] = {"sonotag.id": session_id, "sonotag.outcome": visit.outcome}
            fields["sonotag.received_seconds"] = round(seconds, 3)
            trace.describe("/v1/stream", fields)


def _account(services: Services, visit: _Visit, *, open_seconds: float, sound_seconds: float) -> None:
    """Count a stream that is over, and write it down."""
    if isinstance(visit.refusal, Unavailable):
        code = visit.refusal.code
        services.metrics.stream_refused(code if code in REFUSALS else "full")
        log_refusal("stream", visit.key, visit.refusal.code, open_seconds)
        return
    if visit.driver is None:  # it was told why it may not come in: a stream, too, that came and went
        services.metrics.stream_opened()
    services.metrics.stream_closed(visit.outcome)
    log_stream(visit.key, visit.outcome, open_seconds=open_seconds, sound_seconds=sound_seconds)


async def _run_stream(websocket: WebSocket, services: Services, session_id: str, visit: _Visit) -> None:
    """Let a stream in and run it to its end.

    Who asks comes first: those who may not come in take nobody's place, and learn nothing of how full it is.

    Raises:
        ServiceError: It may not come in; nothing was accepted yet.
    """
    guard = services.guard
    guard.check_browser(asked_of(websocket.scope, websocket.headers))
    caller, subprotocol = _identify(websocket, guard)
    visit.key = caller.name
    guard.authorise(caller, _path_of(websocket))
    parking = services.parking.of(caller.key.id) if services.parking else None
    await _take_places(websocket, services, parking, visit)
    async with guard.holding_stream(caller, session_id), guard.metering(caller) as meter:
        channel = SocketChannel(websocket, services.settings.send_seconds)
        driver = StreamDriver(services, channel, session_id, meter, parking, visit.live)
        with services.lifecycle.admit(driver.drain), services.catalog.users.joined(driver.drain):
            visit.driver = driver
            services.metrics.stream_opened()
            await websocket.accept(subprotocol)
            await driver.run(websocket.query_params.multi_items())


async def _take_places(websocket: WebSocket, services: Services, parking: Resumption | None, visit: _Visit) -> None:
    """Take a place among all streams, and hold what this one will ask of its model.

    Where the query names a stream of the caller's to go on with, its old connection is left first, of which the service may not
    know yet that it is broken: a stream is counted once.

    Raises:
        Unavailable: There is none, the service is not ready, or whoever may have that stream does not answer.
    """
    services.lifecycle.check_ready()
    token = websocket.query_params.get("resume_token")
    demand = None if token is None or parking is None else await parking.find(token)
    await visit.place.take()
    services.lifecycle.check_ready()  # a drain may have begun meanwhile
    visit.live = take_place(services.catalog, websocket.query_params, demand)


def _path_of(websocket: WebSocket) -> str:
    path: str = websocket.scope["path"]
    return path.removeprefix(websocket.scope.get("root_path", ""))


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
    return guard.identify(credential, scheme=scheme_of(websocket.headers)), answered


async def _refuse(websocket: WebSocket, error: ServiceError) -> None:
    """Say why a stream may not come in: a browser is told nothing of an upgrade that is refused."""
    if isinstance(error, Unavailable):
        await websocket.send_denial_response(error_response(error))
        return
    channel = SocketChannel(websocket, websocket.app.state.services.settings.send_seconds)
    message = ErrorMessage(**error_body(error).model_dump(), fatal=True)
    with suppress(OSError, TimeoutError):
        await websocket.accept(websocket.scope.get(SUBPROTOCOL))
        await channel.send(message)
        await channel.close(error.close_code, error.code)


def take_place(catalog: Catalog, query: Mapping[str, str], demand: Demand | None) -> LivePlace:
    """Hold what a stream will ask of its model, as far as the query tells; `start` may still say something else.

    Args:
        catalog: The models.
        query: Of the connection.
        demand: What the stream asks for that it goes on with; None where it goes on with none.

    Raises:
        QueueFull: The open streams leave too little.
    """
    if demand is not None and demand.model in catalog.names:
        return catalog.get(demand.model).live.take(demand.windows_per_second)
    name = query.get("model")
    batcher = catalog.get(name if name in catalog.names else None)
    grid = resolve_grid(batcher.spec, None, None)
    with suppress(ValueError, InvalidParameter):  # whatever is wrong, the session will say so
        window, hop = (float(query[key]) if key in query else None for key in ("window", "hop"))
        grid = resolve_grid(batcher.spec, window, hop)
    return batcher.live.take(whole_windows_per_second(batcher.spec, grid))


@router.get(STREAM_PATH, include_in_schema=False)
async def explain(request: Request) -> None:
    """Tell a caller without an upgrade what this is."""
    raise HTTPException(426, "this is a websocket: connect with ws:// or wss://", {"Upgrade": "websocket"})
