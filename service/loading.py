"""The models of a service process: they are opened, announced, watched, and given up where they hang."""

from __future__ import annotations

import asyncio
import logging

from service.capacity import decide_limit, find_machine, load_saved
from service.errors import BundleError, InvalidParameter, SettingsError, StartError, Unavailable
from service.gpu_choice import share_gpu_memory
from service.gpus import GpuReader
from service.inference.batcher import Batcher
from service.inference.catalog import Catalog, open_catalog
from service.inference.providers import has_nvidia_device
from service.inference.runner import ModelSpec, Runner
from service.inference.watchdog import Watchdog
from service.logs import log_event
from service.postprocess.hysteresis import Thresholds
from service.services import ServedModels, Services
from service.settings import Settings
from service.speed import watch_speed

logger = logging.getLogger(__name__)


async def load_models(services: Services, runner: Runner | None) -> asyncio.Task[None] | None:
    """Load the models in a thread, so that liveness and readiness answer meanwhile. Return the task that watches them."""
    settings, lifecycle = services.settings, services.lifecycle
    try:
        await services.keeper.start()
        services.saved = load_saved(settings)
        catalog = await open_models(services, runner, is_first=True)
        catalog.start()
        services.catalog = catalog
        announce_models(services, catalog)
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


async def open_models(services: Services, runner: Runner | None, *, is_first: bool) -> Catalog:
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


def announce_models(services: Services, catalog: Catalog) -> None:
    """Tell the metrics what is served from now on."""
    settings = services.settings
    for batcher in catalog:
        fell_back = batcher.spec.provider == "cpu" and settings.provider != "cpu" and has_nvidia_device()
        services.metrics.model_loaded(batcher.spec, max_queue_windows=settings.max_queue_windows, fell_back=fell_back)


async def watch_models(services: Services, loading: asyncio.Task[asyncio.Task[None] | None]) -> None:
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


async def _start_decoders(services: Services) -> None:
    """Have a decoder ready.

    Raises:
        StartError: None can be made.
    """
    try:
        await asyncio.to_thread(services.decoders.start)
    except Unavailable as error:
        raise StartError(f"no decoder can be started: {error.message}") from error


def _check_events(settings: Settings, spec: ModelSpec) -> None:
    """Refuse default events that do not fit a model's labels: every stream and many a request would be told of it.

    Raises:
        SettingsError: A label is none of the model's, or named twice.
    """
    try:
        Thresholds.compile(settings.events, spec.labels, spec.sample_rate)
    except InvalidParameter as error:
        raise SettingsError(f"SONOTAG_EVENTS does not fit model {spec.name}: {error.message}") from error
