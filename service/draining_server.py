"""uvicorn's server with a drain before it closes anything.

uvicorn answers SIGTERM by closing every websocket with 1012 before the application hears of it, so the drain cannot live
in the application's lifespan. Here the first signal begins the drain (`service.lifecycle`) while the server goes on
serving; uvicorn's own shutdown begins once nothing is under way, or when the time is up. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn

from service.lifecycle import Lifecycle
from service.logs import log_event
from service.sockets import BACKLOG

_logger = logging.getLogger(__name__)

# For refusals to be written, and for what ends just now.
_REFUSAL_SECONDS = 1.0
# What the hung model would have answered is failed at once; the rest needs no longer than this.
_BREAKDOWN_SECONDS = 5.0
SAME_SIGNAL_SECONDS: Final = 0.5
"""Signals this close together are one: make, `timeout` and terminals send theirs to a process and to its group."""


class DrainingServer(uvicorn.Server):
    """uvicorn's server with a drain phase.

    Args:
        config: uvicorn's; its application shares the lifecycle.
        lifecycle: What is under way, and whether the model could be loaded.
        drain_seconds: How long what is under way may take to finish.
        on_ready: Called once, on the event loop, when the service is ready.
        parent_fd: A pipe whose end of file means that the supervisor died: then this process drains and ends.
        listens_when_ready: Take no connection before the service is ready: other workers do.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        drain_seconds: float,
        on_ready: Callable[[], None],
        parent_fd: int | None = None,
        *,
        listens_when_ready: bool = False,
    ) -> None:
        super().__init__(config)
        self._listens_when_ready = listens_when_ready
        self._later_sockets: list[socket.socket] = []
        self._lifecycle = lifecycle
        self._drain_seconds = drain_seconds
        self._on_ready: Callable[[], None] | None = on_ready
        self._parent_fd = parent_fd
        self._drain_wanted = False
        self._reload_wanted = False
        self._first_signal_at = 0.0
        self._drain: asyncio.Task[None] | None = None
        self.is_unfinished = False
        """Whether it ended before everything under way had finished."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain at the first signal, end at once at the second. It runs between two bytecodes: flags only."""
        now = time.monotonic()
        if not self._drain_wanted:
            self._drain_wanted = True
            self._first_signal_at = now
        elif now - self._first_signal_at > SAME_SIGNAL_SECONDS:
            if self.force_exit:
                os._exit(128 + sig)
            self.should_exit = True
            self.force_exit = True

    def handle_reload(self, _sig: int, _frame: FrameType | None) -> None:
        """Have the models reloaded, soon: as above."""
        self._reload_wanted = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen; see uvicorn."""
        if self._listens_when_ready:
            self._later_sockets, sockets = list(sockets or ()), []
        await super().startup(sockets)
        if self._parent_fd is not None:
            asyncio.get_running_loop().add_reader(self._parent_fd, self._notice_parent)

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second at what signals and the lifecycle ask for."""
        if self._lifecycle.failed is not None:
            self.should_exit = True
        elif self._lifecycle.breakdown is not None and not self._drain_wanted:
            self._leave_address()  # the other workers take what comes
            self._drain_seconds = min(self._drain_seconds, _BREAKDOWN_SECONDS)
            self._drain_wanted = True
        elif self._lifecycle.is_ready and self._on_ready is not None:
            await self._listen_later()
            announce, self._on_ready = self._on_ready, None
            announce()
        if self._reload_wanted and self._lifecycle.is_ready:
            self._reload_wanted = False
            if self._lifecycle.on_reload is not None:
                self._lifecycle.on_reload()
        if self._drain_wanted and self._drain is None:
            self._drain = asyncio.create_task(self._run_drain())
        if self.force_exit:
            # Without anything under way the usual shutdown takes no time.
            self.force_exit = self.is_unfinished = self._lifecycle.num_active > 0
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is left and end the application; see uvicorn. After a second signal nothing is waited for."""
        if self.force_exit:
            # Each part that is cut off now would log its cancellation as an error.
            logging.getLogger("uvicorn.error").disabled = True
            for server in self.servers:
                server.close()
            return
        await super().shutdown(sockets)

    async def _run_drain(self) -> None:
        num_active = self._lifecycle.num_active
        log_event(_logger, logging.INFO, "drain begins", under_way=num_active, limit_s=self._drain_seconds)
        self._lifecycle.begin_drain()
        if not await self._wait_finished():
            self.is_unfinished = True
            left = self._lifecycle.num_active
            log_event(
                _logger,
                logging.WARNING,
                "drain ends unfinished (SONOTAG_DRAIN_SECONDS)",
                left=left,
                limit_s=self._drain_seconds,
            )
        else:
            log_event(_logger, logging.INFO, "drain is complete")
        self.should_exit = True

    async def _wait_finished(self) -> bool:
        """Wait for what is under way; who still sends a body when the time is up is refused, and has not been accepted."""
        if await self._lifecycle.wait_idle(self._drain_seconds):
            return True
        if num_bodies := self._lifecycle.cut_short():
            log_event(
                _logger,
                logging.WARNING,
                "drain refuses bodies that have not all come (SONOTAG_DRAIN_SECONDS)",
                bodies=num_bodies,
                limit_s=self._drain_seconds,
            )
        return await self._lifecycle.wait_idle(_REFUSAL_SECONDS)

    def _notice_parent(self) -> None:
        assert self._parent_fd is not None
        if os.read(self._parent_fd, 4096):
            return
        asyncio.get_running_loop().remove_reader(self._parent_fd)
        log_event(_logger, logging.ERROR, "the supervisor died, this worker drains and ends")
        # Its successor must be able to bind the address while this one still finishes what it has.
        self._leave_address()
        self._drain_wanted = True

    def _leave_address(self) -> None:
        for server in self.servers:
            server.close()

    async def _listen_later(self) -> None:
        """Listen on the sockets that waited for readiness."""
        sockets, self._later_sockets = self._later_sockets, []
        loop = asyncio.get_running_loop()
        for sock in sockets:
            server = await loop.create_server(self._make_protocol, sock=sock, ssl=self.config.ssl, backlog=BACKLOG)
            self.servers.append(server)

    def _make_protocol(self) -> asyncio.Protocol:
        """Do for one connection what uvicorn does in its own start."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
