"""The application: wiring and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service.access.guard import Guard
from service.api import asyncapi, catalogue, health, page, reload, rest, tokens, websocket
from service.api.admission import Admission
from service.api.description import DescribedAPI
from service.api.error_handlers import add_error_handlers
from service.api.middleware import RequestContext, RootPath
from service.api.security_headers import SecurityHeaders
from service.capacity import find_machine
from service.decoders.nursery import Nursery
from service.decoders.pool import TRIM_SECONDS, DecoderLimits, DecoderPool
from service.errors import SettingsError
from service.inference.runner import Runner
from service.keeper.client import KeeperClient, LocalKeeper
from service.keeper.keeper import Keeper
from service.kept_quotas import KeptQuotas
from service.lifecycle import Lifecycle
from service.loading import announce_models, load_models, open_models, watch_models
from service.memory import trim_heaps
from service.metrics import Metrics
from service.release import read_version
from service.reloading import Reloading
from service.services import Services
from service.settings import Settings
from service.spool import Spool
from service.stream_parking import StreamParking
from service.tracing import Tracer

logger = logging.getLogger(__name__)

POOL_THREADS = 8
"""Threads for what blocks, beside one for each decoder that is waited for: one that hangs must keep nobody else waiting."""


def create_app(
    settings: Settings,
    *,
    keeper: KeeperClient | None = None,
    runner: Runner | None = None,
    tracer: Tracer | None = None,
    nursery: Nursery | None = None,
) -> FastAPI:
    """Build the application. Its lifespan loads the models; readiness says when that is done.

    Args:
        settings: The settings.
        keeper: Knows what holds for the whole service; its own where this process is all there is.
        runner: Served in place of the bundles; for tests.
        tracer: Takes the traces in place of what the settings say; for tests. Closed with the application.
        nursery: Makes the decoder processes in place of one of its own; for tests. It stays the caller's.

    Raises:
        SettingsError: Traces are wanted, and what they need is not installed; or the API keys or the measured capacity cannot
            be read.
    """
    settings = settings.with_machine(find_machine(settings))
    metrics = Metrics()
    metrics.service_configured(
        num_workers=settings.workers, max_streams=settings.max_streams, max_lag_seconds=settings.max_lag_seconds
    )
    lifecycle = Lifecycle(metrics.readiness_changed)
    num_threads = POOL_THREADS + settings.max_decoders + settings.max_container_streams
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    own_nursery = Nursery() if nursery is None else None
    decoders = DecoderPool(_decoder_limits(settings), nursery or own_nursery or Nursery(), metrics.decoder_failed)
    keeper = keeper or LocalKeeper(Keeper(settings))
    guard = Guard(settings, KeptQuotas(keeper))
    services = Services(
        settings=settings,
        guard=guard,
        lifecycle=lifecycle,
        metrics=metrics,
        executor=executor,
        decoders=decoders,
        keeper=keeper,
        spool=Spool(keeper),
    )
    if settings.resume_seconds > 0:
        services.parking = StreamParking(keeper, settings.resume_seconds)
    if tracer is not None:
        services.tracer = tracer
    elif settings.traces == "otlp":
        services.tracer = _open_tracer(services.clock)

    reloading = Reloading(
        services, lambda: open_models(services, runner, is_first=False), lambda catalog: announce_models(services, catalog)
    )
    lifecycle.on_reload = reloading.begin

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if own_nursery is not None:
            own_nursery.start()  # it loads its libraries while the models are loaded
        loading = asyncio.create_task(load_models(services, runner))
        watching = asyncio.create_task(watch_models(services, loading))
        trimming = asyncio.create_task(_keep_trimmed(decoders))
        # Not in a `finally`: a second signal cancels this, and then nothing is waited for.
        yield
        if (metering := await loading) is not None:
            metering.cancel()
        if services.parking is not None:
            services.parking.close()
        await reloading.close()
        await services.close()  # the watchdog still looks: a model that hangs would hold this up for ever
        trimming.cancel()
        decoders.close()
        if own_nursery is not None:
            await asyncio.to_thread(own_nursery.close)
        watching.cancel()
        await asyncio.gather(watching, trimming, return_exceptions=True)
        await services.keeper.close()

    app = DescribedAPI(
        guard,
        title="Sonotag",
        summary="Real-time streaming audio tagging",
        version=read_version(),
        lifespan=lifespan,
        docs_url=None,  # theirs load scripts from elsewhere; ours is in page.py
        redoc_url=None,
    )
    app.state.services = services
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics
    add_error_handlers(app)
    for module in (rest, catalogue, reload, tokens, websocket, asyncapi, health):
        app.include_router(module.router)
    page.add_page(app)
    app.add_middleware(Admission, services=services)
    app.add_middleware(RequestContext, services=services)
    app.add_middleware(SecurityHeaders)
    if settings.cors_origins:  # around all else, so that a browser may read every answer, also that to our own faults
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Server-Timing", "Retry-After"],
        )
    if settings.root_path:
        app.add_middleware(RootPath, root_path=settings.root_path)
    return app


async def _keep_trimmed(decoders: DecoderPool) -> None:
    """End decoders that nothing needs any more; a burst of clips is over then, and what it held goes back to the system."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        if decoders.trim():
            await asyncio.to_thread(trim_heaps)


def _open_tracer(clock: Callable[[], float]) -> Tracer:
    """Return what sends traces; its libraries are loaded only where they are wanted.

    Raises:
        SettingsError: They are not installed.
    """
    try:
        from service.otel import make_tracer
    except ImportError as error:
        raise SettingsError("SONOTAG_TRACES is otlp, which needs the extra sonotag[otel]") from error
    return make_tracer(clock)


def _decoder_limits(settings: Settings) -> DecoderLimits:
    return DecoderLimits(
        max_files=settings.max_decoders,
        max_streams=settings.max_container_streams,
        timeout_seconds=settings.decode_timeout_seconds,
        memory_bytes=settings.decoder_memory_bytes,
        wait_seconds=settings.request_timeout_seconds,
    )
