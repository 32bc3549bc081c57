"""One server process: uvicorn around the application, with a drain of its own before uvicorn closes anything.

uvicorn answers SIGTERM by closing every websocket with 1012 before the application hears of it, so the drain cannot live
in the application's lifespan. Here the first signal begins the drain (`service.lifecycle`) while the server goes on
serving; uvicorn's own shutdown begins once nothing is under way, or when the time is up. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final, NoReturn

import uvicorn
from fastapi import FastAPI

from service import exit_codes
from service.api.forwarded import ForwardedHeaders
from service.api.protocol import lingering_websocket
from service.connection import timed_connection
from service.errors import SettingsError
from service.lifecycle import Lifecycle
from service.logs import log_event
from service.memory import settle_allocator
from service.settings import Settings
from service.sockets import BACKLOG, announce, describe, listen, remove_unix_socket

_logger = logging.getLogger(__name__)

# Past the drain nothing is left to wait for but answers on their way out and handlers that hang.
_SHUTDOWN_SECONDS = 5
# Longer than the idle time-outs of the usual proxies (nginx and most balancers: 60 s), so that it is always the proxy that
# closes an idle connection: it would answer 502 when the server closes one it is just using.
_KEEP_ALIVE_SECONDS = 75
# Text messages of 65,536 characters, which may take four bytes each, are refused by us.
_MIN_HARD_FRAME_CAP = 512 * 1024
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


def _check_tls(settings: Settings) -> None:
    """Load the certificate once for its errors: uvicorn's own would be a traceback."""
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise SettingsError("SONOTAG_TLS_CERTIFICATE_FILE and SONOTAG_TLS_KEY_FILE go together: one of them is not set")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else error.args[-1]
        raise SettingsError(
            f"HTTPS cannot be served with {certificate} and {key}: {reason} "
            "(SONOTAG_TLS_CERTIFICATE_FILE, SONOTAG_TLS_KEY_FILE)"
        ) from error


def make_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration for the application.

    Raises:
        SettingsError: The certificate or its key cannot be had.
    """
    _check_tls(settings)
    return uvicorn.Config(
        ForwardedHeaders(app, settings.trusted_proxies),
        lifespan="on",
        loop="uvloop",
        http=timed_connection(head_seconds=settings.receive_timeout_seconds, send_seconds=settings.send_seconds),
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        proxy_headers=False,  # ForwardedHeaders does what it would do, and the host
        ssl_certfile=settings.tls_certificate_file,
        ssl_keyfile=settings.tls_key_file,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        workers=1,  # explicitly: otherwise uvicorn reads WEB_CONCURRENCY
        # The implementation without deprecated parts, and the one that stops reading a connection while the application has
        # a message it has not taken: one message, and what one read of the socket brought, is all that waits in here.
        # (ws_max_queue is for the other implementation; this one has no such queue.)
        ws=lingering_websocket(max_messages_per_second=settings.max_messages_per_second),
        # Twice, so that a frame that is too large is told so, and no more, since each stream can make us hold it.
        ws_max_size=max(_MIN_HARD_FRAME_CAP, 2 * settings.max_frame_bytes),
        # Sound does not compress, and a deflated frame may blow up a thousandfold.
        ws_per_message_deflate=False,
        # Pings keep the idle timers of proxies and address translators from closing a quiet stream. A missing pong closes
        # nothing: while reading is paused (a stream ahead of real time) pongs wait in the socket unread, and uvicorn counts
        # that time against the client. Dead peers are found by our own idle timer (SONOTAG_IDLE_SECONDS), which stops while
        # reading is paused, and by TCP.
        ws_ping_interval=20,
        ws_ping_timeout=None,
    )


def serve_app(
    app: FastAPI,
    settings: Settings,
    sockets: list[socket.socket],
    *,
    on_ready: Callable[[], None],
    parent_fd: int | None = None,
    listens_when_ready: bool = False,
) -> int:
    """Serve an application until a signal ends it.

    Args:
        app: The application; `app.state.lifecycle` is its `Lifecycle`.
        settings: The service's settings.
        sockets: Bound sockets; they are closed at the end.
        on_ready: Called once when the service is ready.
        parent_fd: See `DrainingServer`.
        listens_when_ready: See `DrainingServer`.

    Returns:
        The exit code: `OK` after a clean drain, `START` when the model could not be loaded, `HUNG` when it does not answer any
        more, `UNFINISHED` when something was cut off.
    """
    settle_allocator()
    lifecycle: Lifecycle = app.state.lifecycle
    server = DrainingServer(
        make_config(app, settings),
        lifecycle,
        settings.drain_seconds,
        on_ready,
        parent_fd,
        listens_when_ready=listens_when_ready,
    )
    if threading.current_thread() is threading.main_thread():
        # uvicorn puts back what it found, and a signal during the last steps must not undo a clean end.
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, server.handle_exit)
        signal.signal(signal.SIGHUP, server.handle_reload)
    try:
        server.run(sockets=sockets)
    except SystemExit:
        # uvicorn's way to say that the application's start failed; it has logged why.
        return exit_codes.START
    lifecycle.mark_stopped()
    if lifecycle.failed is not None:
        log_event(_logger, logging.ERROR, "the service cannot start", reason=lifecycle.failed)
        return exit_codes.START
    if lifecycle.breakdown is not None:
        return exit_codes.HUNG
    return exit_codes.UNFINISHED if server.is_unfinished else exit_codes.OK


def run_server(settings: Settings, create_app: Callable[[Settings], FastAPI]) -> int:
    """Serve in this process, until a signal ends it.

    Args:
        settings: The settings.
        create_app: Makes the application, `service.app.create_app`.

    Returns:
        The exit code; see `serve_app`.

    Raises:
        SettingsError: The address cannot be had.
    """
    sockets = listen(settings)
    address = describe(settings, sockets)
    try:
        return serve_app(create_app(settings), settings, sockets, on_ready=lambda: announce(address))
    finally:
        for sock in sockets:
            sock.close()
        remove_unix_socket(settings)


def end_process(code: int) -> NoReturn:
    """End this process. A thread in which something was cut off, or hangs, is not waited for.

    While the interpreter takes itself down it puts the default handlers back: a late signal would then kill what has ended
    cleanly. One that is ignored stays ignored.
    """
    if threading.current_thread() is threading.main_thread():
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(sig, signal.SIG_IGN)
    logging.shutdown()
    sys.stdout.flush()
    if code in (exit_codes.UNFINISHED, exit_codes.HUNG):
        os._exit(code)
    sys.exit(code)
