from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.inference.onnx_runner import OnnxRunner
from service.services import Services
from service.settings import Settings
from tests.support.app_server import shared_nursery
from tests.support.bundles import write_bundle
from tests.support.rest import SPEECH, heard, wav

CLIP = wav(heard((SPEECH, 1.0)))


async def test_the_old_models_are_freed_once_others_serve(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    settings = Settings(_env_file=None, bundles=f"linear={tmp_path / 'bundle'}", provider="cpu")  # type: ignore[call-arg, arg-type]
    app = create_app(settings, nursery=shared_nursery())
    services: Services = app.state.services

    def watch_models() -> dict[str, weakref.ref[Any]]:
        [batcher] = services.catalog
        assert isinstance(batcher.runner, OnnxRunner)
        things = {"catalog": services.catalog, "batcher": batcher, "runner": batcher.runner, "session": batcher.runner._session}
        return {name: weakref.ref(thing) for name, thing in things.items()}

    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        async with asyncio.timeout(60):
            while (await client.get("/health/ready")).status_code != 200:  # noqa: ASYNC110 - readiness tells nobody
                await asyncio.sleep(0)  # the loop's turn: what loads is on it
        assert (await client.post("/v1/classify?hop=0.1", content=CLIP)).status_code == 200
        assert (await client.post("/v1/classify?labels=nothing", content=CLIP)).status_code == 400, "an error keeps nothing"
        old = watch_models()
        assert (await client.post("/v1/models/reload")).status_code == 200
        async with asyncio.timeout(60):
            while left := {name for name, reference in old.items() if reference() is not None}:
                await asyncio.sleep(0)
                if not left & {"catalog", "session"}:  # the rest goes with the model's thread, which may just be ending
                    gc.collect()
        assert (await client.post("/v1/classify?hop=0.1", content=CLIP)).status_code == 200
        assert [reference() is None for reference in watch_models().values()] == [False] * 4
