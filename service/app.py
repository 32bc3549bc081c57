"""The application: wiring and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from service.access.guard import Guard
from service.api import asyncapi, health, page, reload, rest, tokens, websocket
from service.api.admission import Admission
from service.api.error_handlers import add_error_handlers
from service.api.late_bodies import LateBodies
from service.api.middleware import RequestContext, RootPath
from service.api.security_headers import SecurityHeaders
from service.capacity import decide_limit, find_machine, load_saved
from service.decoders.nursery import Nursery
from service.decoders.pool import TRIM_SECONDS, DecoderLimits, DecoderPool
from service.errors import BundleError, InvalidParameter, SettingsError, StartError, Unavailable
from service.gpu_choice import share_gpu_memory
from service.gpus import GpuReader
from service.inference.batcher import Batcher
from service.inference.catalog import Catalog, open_catalog
from service.inference.providers import has_nvidia_device
from service.inference.runner import ModelSpec, Runner
from service.inference.watchdog import Watchdog
from service.keeper.client import KeeperClient, LocalKeeper
from service.keeper.keeper import Keeper
from service.kept_quotas import KeptQuotas
from service.lifecycle import Lifecycle
from service.logs import log_event
from service.memory import trim_heaps
from service.metrics import Metrics
from service.postprocess.hysteresis import Thresholds
from service.reloading import Reloading
from service.services import ServedModels, Services
from service.settings import Settings
from service.speed import watch_speed
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
        services, lambda: _open_models(services, runner, is_first=False), lambda catalog: _announce(services, catalog)
    )
    lifecycle.on_reload = reloading.begin

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if own_nursery is not None:
            own_nursery.start()  # it loads its libraries while the models are loaded
        loading = asyncio.create_task(_load(services, runner))
        watching = asyncio.create_task(_watch(services, loading))
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

    app = FastAPI(
        title="Sonotag",
        summary="Real-time streaming audio tagging",
        version=version("sonotag"),
        lifespan=lifespan,
        docs_url=None,  # theirs load scripts from elsewhere; ours is in page.py
        redoc_url=None,
    )
    app.state.services = services
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics
    add_error_handlers(app)
    for module in (rest, reload, tokens, websocket, asyncapi, health):
        app.include_router(module.router)
    page.add_page(app)
    app.add_middleware(LateBodies, lifecycle=services.lifecycle)
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


async def _load(services: Services, runner: Runner | None) -> asyncio.Task[None] | None:
    """Load the models in a thread, so that liveness and readiness answer meanwhile. Return the task that watches them."""
    settings, lifecycle = services.settings, services.lifecycle
    try:
        await services.keeper.start()
        services.saved = load_saved(settings)
        catalog = await _open_models(services, runner, is_first=True)
        catalog.start()
        services.catalog = catalog
        _announce(services, catalog)
        await _start_decoders(services)
        services.stream_limit = decide_limit(settings, catalog.get(None).spec, services.saved.limit)
        services.metrics.stream_limit_changed(services.stream_limit.streams)
        watch = asyncio.create_task(watch_speed(ServedModels(services, with_retiring=False), services.metrics, services.clock))
        lifecycle.mark_ready()
    except StartError as error:
        lifecycle.fail(error)
    except Exception as error:
        logger.exception("the models could not be loaded")
        lifecycle.fail(StartError(f"the models could not be loaded: {type(error).__name__}: {error}"))
    else:
        return watch
    return None


async def _open_models(services: Services, runner: Runner | None, *, is_first: bool) -> Catalog:
    """Open what is to be served, ready to be started.

    Raises:
        StartError: It cannot be served.
    """
    settings = services.settings
    if runner is not None and not is_first:
        raise BundleError("the model was given to this process and has no folder to be read from")
    if runner is not None:
        places = settings.max_queue_windows
        batcher = Batcher(
            runner,
            max_queue_windows=places,
            clock=services.clock,
            observer=services.metrics,
            live_share=services.settings.live_share,
        )
        catalog = Catalog({runner.spec.name: batcher})
    else:
        folders = {bundle.name: bundle.folder for bundle in settings.bundles}
        gpus = await asyncio.to_thread(GpuReader().read) if settings.workers > 1 else ()
        catalog = await asyncio.to_thread(
            open_catalog,
            folders,
            settings,
            services.metrics,
            clock=services.clock,
            tuning=services.saved.tuning,
            cores=find_machine(settings).cores,
            gpu_memory_bytes=share_gpu_memory([gpu.total_bytes for gpu in gpus], settings.gpus, settings.workers),
        )
    try:
        for batcher in catalog:
            _check_events(settings, batcher.spec)
    except SettingsError:
        await asyncio.to_thread(catalog.abandon)
        raise
    return catalog


def _announce(services: Services, catalog: Catalog) -> None:
    """Tell the metrics what is served from now on."""
    settings = services.settings
    for batcher in catalog:
        fell_back = batcher.spec.provider == "cpu" and settings.provider != "cpu" and has_nvidia_device()
        services.metrics.model_loaded(batcher.spec, max_queue_windows=settings.max_queue_windows, fell_back=fell_back)


async def _keep_trimmed(decoders: DecoderPool) -> None:
    """End decoders that nothing needs any more; a burst of clips is over then, and what it held goes back to the system."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        if decoders.trim():
            await asyncio.to_thread(trim_heaps)


async def _watch(services: Services, loading: asyncio.Task[asyncio.Task[None] | None]) -> None:
    """Give up on this process when a run of a model hangs: no thread can be ended, and what it holds is lost."""
    await asyncio.wait([loading])
    if not services.lifecycle.is_ready:
        return
    settings = services.settings
    models = ServedModels(services, with_retiring=True)
    hung = await Watchdog(models, settings.watchdog_seconds, services.clock).watch()
    log_event(
        logger,
        logging.ERROR,
        "a model hangs (SONOTAG_WATCHDOG_SECONDS), this process ends",
        model=hung.model,
        seconds=round(hung.seconds, 1),
    )
    # The flag first: whoever is told of the failure and asks again must not be sent here.
    services.lifecycle.break_down(f"model {hung.model} does not answer")
    for batcher in models:
        if batcher.spec.name == hung.model:
            batcher.give_up()


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


async def _start_decoders(services: Services) -> None:
    """Have a decoder ready.

    Raises:
        StartError: None can be made.
    """
    try:
        await asyncio.to_thread(services.decoders.start)
    except Unavailable as error:
        raise StartError(f"no decoder can be started: {error.message}") from error


def _decoder_limits(settings: Settings) -> DecoderLimits:
    return DecoderLimits(
        max_files=settings.max_decoders,
        max_streams=settings.max_container_streams,
        timeout_seconds=settings.decode_timeout_seconds,
        memory_bytes=settings.decoder_memory_bytes,
        wait_seconds=settings.request_timeout_seconds,
    )


def _check_events(settings: Settings, spec: ModelSpec) -> None:
    """Refuse default events that do not fit a model's labels: every stream and many a request would be told of it.

    Raises:
        SettingsError: A label is none of the model's, or named twice.
    """
    try:
        Thresholds.compile(settings.events, spec.labels, spec.sample_rate)
    except InvalidParameter as error:
        raise SettingsError(f"SONOTAG_EVENTS does not fit model {spec.name}: {error.message}") from error
