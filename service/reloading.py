"""New models in place of the old ones, in a process that goes on serving.

The new ones are read, proved and warmed up beside the old ones. Then whatever comes is answered by the new ones, while
requests and streams that are under way keep the models they began with. The old ones are closed when the last of those has
left; streams are told to after SONOTAG_RELOAD_SECONDS.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from service.capacity import StreamLimit, decide_limit
from service.errors import StartError, Unavailable
from service.inference.catalog import Catalog, place_of
from service.keeper.reloads import RELOAD_SECONDS
from service.keeper.topics import (
    DISCARD_MODELS,
    PREPARE_MODELS,
    RELOAD_MODELS,
    SWAP_MODELS,
    Nothing,
    Prepared,
    Swapped,
)
from service.logs import log_event
from service.memory import release_memory
from service.services import Services

logger = logging.getLogger(__name__)


class Reloading:
    """This worker's part of a reload. Its methods belong to the event loop.

    Args:
        services: Whose catalog is replaced.
        open_models: Opens the new one, ready to be started.
        announce: Tells the metrics of a catalog that serves from now on.
    """

    def __init__(
        self, services: Services, open_models: Callable[[], Awaitable[Catalog]], announce: Callable[[Catalog], None]
    ) -> None:
        self._services = services
        self._open = open_models
        self._announce = announce
        self._turn = asyncio.Lock()
        self._new: tuple[Catalog, StreamLimit] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        services.keeper.desk.add(PREPARE_MODELS, self._prepare)
        services.keeper.desk.add(DISCARD_MODELS, self._discard)
        services.keeper.desk.add(SWAP_MODELS, self._swap)

    def begin(self) -> None:
        """Have the whole service reload: what SIGHUP does."""
        self._keep(self._ask())

    async def close(self) -> None:
        """The process ends: close what is not served."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._discard(0, Nothing())
        await asyncio.gather(*(old.stop() for old in self._services.retiring))

    async def _ask(self) -> None:
        try:
            await self._services.keeper.ask(RELOAD_MODELS, Nothing(), seconds=RELOAD_SECONDS)
        except Unavailable as error:
            log_event(logger, logging.ERROR, "the models cannot be reloaded", reason=error.message)

    async def _prepare(self, _asker: int, _question: Nothing) -> Prepared:
        async with self._turn:
            if not self._services.lifecycle.is_ready:
                return Prepared(reason="a worker is starting or ending; try again in a moment")
            await self._drop()
            log_event(logger, logging.INFO, "the models are being reloaded")
            try:
                self._new = await self._make_ready()
            except StartError as error:
                log_event(logger, logging.ERROR, "the models cannot be reloaded, the old ones serve on", reason=error)
                return Prepared(reason=self._without_paths(str(error)))
            except Exception:
                logger.exception("the models cannot be reloaded, the old ones serve on")
                return Prepared(reason="the new models could not be loaded; the log says why")
            log_event(logger, logging.INFO, "the new models are ready, and wait for those of the other workers")
            return Prepared()

    async def _make_ready(self) -> tuple[Catalog, StreamLimit]:
        """Open the new models; whatever could be wrong with them is found here, since the change itself must not fail."""
        catalog = await self._open()
        try:
            return catalog, decide_limit(self._services.settings, catalog.get(None).spec, self._services.saved.limit)
        except StartError:
            await asyncio.to_thread(catalog.abandon)
            raise

    async def _discard(self, _asker: int, _question: Nothing) -> Nothing:
        async with self._turn:  # what is still being loaded is waited for
            await self._drop()
        return Nothing()

    async def _drop(self) -> None:
        new, self._new = self._new, None
        if new is not None:
            await asyncio.to_thread(new[0].abandon)
            del new
            await asyncio.to_thread(release_memory)

    def _swap(self, _asker: int, _question: Nothing) -> Swapped:
        prepared, self._new = self._new, None
        if prepared is None:
            return Swapped()  # it has changed, or started after the others were asked, with what is in the folders
        new, limit = prepared
        services, old = self._services, self._services.catalog
        try:  # what may fail comes first: on a full disk, say, the metrics have no room for another name
            new.start()
            services.metrics.models_retired([batcher.spec for batcher in old])
            self._announce(new)
        except Exception:
            logger.exception("the new models cannot take over")
            self._keep(new.stop())
            return Swapped(reason="the new models were loaded and could not take over; the log says why")
        for older in services.retiring:
            older.users.dismiss()  # no more than three of each model at a time
        services.retiring.append(old)
        services.catalog = new
        services.stream_limit = limit
        services.metrics.stream_limit_changed(limit.streams)
        for batcher in new:
            log_event(logger, logging.INFO, "a model is reloaded", model=batcher.spec.name, sha256=batcher.spec.source_sha256)
        self._keep(self._retire(old))
        return Swapped()

    async def _retire(self, old: Catalog) -> None:
        """Close a catalog when its last user has left."""
        limit = self._services.settings.reload_seconds
        try:
            async with asyncio.timeout(limit):
                await old.users.wait_gone()
        except TimeoutError:
            left = len(old.users)
            log_event(logger, logging.INFO, "streams are told to leave the old models", left=left, limit_s=limit)
            old.users.dismiss()
            await old.users.wait_gone()
        await old.stop()
        self._services.retiring.remove(old)
        for batcher in self._services.catalog:  # the old one spoke of its queue to the last
            self._services.metrics.queue_depth(batcher.spec.name, batcher.depth)
        del old
        await asyncio.to_thread(release_memory)
        log_event(logger, logging.INFO, "the old models are closed")

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _without_paths(self, reason: str) -> str:
        """Return a reason as others may read it: paths of the machine stay in the log."""
        for bundle in self._services.settings.bundles:
            reason = reason.replace(place_of(bundle.name, bundle.folder), f"model {bundle.name}")
            reason = reason.replace(str(bundle.folder), bundle.name)
        return reason
