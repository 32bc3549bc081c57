"""One server process: uvicorn around the application, from its configuration to its exit code."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from service import exit_codes
from service.api.forwarded import ForwardedHeaders
from service.api.protocol import lingering_websocket
from service.connection import timed_connection
from service.draining_server import DrainingServer
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
