"""The engine in the process of a command: one model, nobody who watches, and none of the limits that protect a server."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

from service import exit_codes
from service.capacity import load_saved
from service.commands.setting_flags import add_setting_flags
from service.engine import Engine
from service.errors import NotFound
from service.inference.catalog import open_catalog
from service.observer import NullObserver
from service.settings import Settings

POOL_THREADS = 4
"""Two clips that are decoded, a file that is opened, and output that is written."""
UNLIMITED_SECONDS = 365 * 86_400.0
"""The largest that the settings allow for a stream. A command's only user waits as long as it takes."""

ENGINE_SETTINGS = (
    "bundles",
    "provider",
    "tensorrt_cache",
    "precision",
    "model_memory_bytes",
    "threads",
    "max_clip_seconds",
    "log_format",
    "log_level",
)


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--model` and the flags for the settings that matter to a model that serves one command."""
    parser.add_argument("--model", metavar="NAME", help="one of the bundles by its name; the first of them by default")
    add_setting_flags(parser, ENGINE_SETTINGS)


@asynccontextmanager
async def open_engine(settings: Settings, model: str | None) -> AsyncIterator[Engine]:
    """Load one model, for as long as the context is open.

    Args:
        settings: The settings; the time limits of requests and streams do not count.
        model: Its name among `settings.bundles`; None for the first.

    Raises:
        NotFound: There is no such model.
        StartError: It cannot be loaded.
    """
    folders = {bundle.name: bundle.folder for bundle in settings.bundles}
    name = settings.bundles[0].name if model is None else model
    if name not in folders:
        raise NotFound(f"there is no model {name[:80]!r}; there are: {', '.join(folders)} (SONOTAG_BUNDLES)", param="model")
    unlimited = settings.model_copy(
        update={
            "request_timeout_seconds": UNLIMITED_SECONDS,
            "idle_seconds": UNLIMITED_SECONDS,
            "max_stream_seconds": UNLIMITED_SECONDS,
        }
    )
    async with open_pool(unlimited) as engine:
        tuning = load_saved(settings).tuning
        engine.catalog = await asyncio.to_thread(open_catalog, {name: folders[name]}, settings, engine.metrics, tuning=tuning)
        engine.catalog.start()
        yield engine


@asynccontextmanager
async def open_pool(settings: Settings) -> AsyncIterator[Engine]:
    """Open an engine without a model, which decodes and waits and scores nothing, for as long as the context is open."""
    executor = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="decode")
    engine = Engine(settings=settings, metrics=NullObserver(), executor=executor)
    try:
        yield engine
    finally:
        await engine.close()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End the process where Control-C ends what is inside.

    A second Control-C comes while the first one is still being obeyed: the model's thread runs on then, and an interpreter
    that shuts down in the usual way tears it down under the library's feet, which aborts.
    """
    try:
        yield
    except KeyboardInterrupt:
        os._exit(exit_codes.INTERRUPTED)
