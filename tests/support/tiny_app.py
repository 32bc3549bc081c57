"""A small application with a real lifecycle and real metrics, for tests of the processes around it.

Run as a module it is a whole service (`python -m tests.support.tiny_app [worker]`); `TINY_FAIL` makes its start fail.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Response, WebSocket

from service.errors import BundleError
from service.exit_codes import START
from service.keeper.client import KeeperClient, LocalKeeper
from service.keeper.keeper import Keeper
from service.keeper.topics import COUNT_PLACES, LEAVE_PLACE, TAKE_PLACE, LeavePlace, Nothing, TakePlace
from service.lifecycle import Lifecycle
from service.logs import configure_logging
from service.metrics import Metrics
from service.server import end_process, run_server
from service.settings import Settings
from service.settings_source import load_settings
from service.supervisor import run_supervisor
from service.worker import run_worker


def create_app(settings: Settings, *, keeper: KeeperClient | None = None) -> FastAPI:
    asked = keeper or LocalKeeper(Keeper(settings))
    lifecycle = Lifecycle()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asked.start()
        if os.environ.get("TINY_FAIL"):
            lifecycle.fail(BundleError("the bundle is altered"))
        else:
            lifecycle.mark_ready()
        yield
        await asked.close()
        print("lifespan over", file=sys.stderr)

    app = FastAPI(lifespan=lifespan)
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics

    @app.get("/health/ready")
    async def ready() -> Response:
        return Response(lifecycle.state, status_code=200 if lifecycle.is_ready else 503)

    @app.get("/pid")
    async def pid() -> dict[str, int]:
        places = await asked.ask(COUNT_PLACES, Nothing())
        return {"pid": os.getpid(), "taken": places.taken, "limit": places.limit}

    @app.post("/places/{holder}")
    async def take(holder: str) -> dict[str, int]:
        place = await asked.ask(TAKE_PLACE, TakePlace(holder=holder))
        return {"pid": os.getpid(), "is_granted": place.is_granted}

    @app.delete("/places/{holder}")
    async def leave(holder: str) -> None:
        asked.tell(LEAVE_PLACE, LeavePlace(holder=holder))

    @app.get("/metrics")
    async def page() -> Response:
        content, kind = metrics.render()
        return Response(content, media_type=kind)

    @app.get("/stuck")
    async def stuck() -> None:
        with lifecycle.admit():
            await asyncio.Event().wait()

    @app.websocket("/ws")
    async def stream(websocket: WebSocket) -> None:
        draining = asyncio.Event()
        with lifecycle.admit(draining.set):
            metrics.stream_opened()
            await websocket.accept()
            await websocket.send_text(str(os.getpid()))
            await draining.wait()
            await websocket.send_text("going_away")
            await websocket.receive_text()
            await websocket.send_text("the last result")
            await websocket.close(1001)
            metrics.stream_closed("draining")

    return app


def main() -> None:
    if sys.argv[1:] == ["worker"]:
        end_process(run_worker(create_app))
    settings = load_settings({})
    configure_logging(settings.log_format, settings.log_level)
    if settings.workers > 1:
        from service.child import python_module

        sys.exit(run_supervisor(settings, python_module("tests.support.tiny_app", "worker")))
    try:
        end_process(run_server(settings, create_app))
    except BundleError:
        sys.exit(START)


if __name__ == "__main__":
    main()
