"""The whole service in a thread of the test, on a real socket, around a model that the test holds in its hand."""

from __future__ import annotations

import atexit
import functools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.app import create_app
from service.decoders.nursery import Nursery
from service.draining_server import DrainingServer
from service.metrics import Metrics
from service.server import make_config
from service.settings import Settings
from service.sockets import describe, listen
from service.tracing import Tracer
from tests.support.runners import WAIT_SECONDS, FakeRunner


@functools.cache
def shared_nursery() -> Nursery:
    """Return what makes the decoder processes of all tests' services: loading its libraries for each would take minutes."""
    nursery = Nursery()
    atexit.register(nursery.close)
    return nursery


class AppServer:
    """A started service.

    Args:
        runner: The model.
        settings: Settings that differ from the defaults; the port is a free one.
        tracer: Takes the traces.
    """

    def __init__(self, runner: FakeRunner, settings: dict[str, Any], tracer: Tracer | None = None) -> None:
        # A .env file is the developer's; a test has only what it says.
        # What the developer's machine was measured at is nothing that a test knows.
        self.settings = Settings(_env_file=None, **{"port": 0, "capacity_file": Path("/nonexistent")} | settings)
        self.runner = runner
        app = create_app(self.settings, runner=runner, tracer=tracer, nursery=shared_nursery())
        self.metrics: Metrics = app.state.metrics
        self.lifecycle = app.state.lifecycle
        self._sockets = listen(self.settings)
        self.url = describe(self.settings, self._sockets).url
        ready = threading.Event()
        self._server = DrainingServer(
            make_config(app, self.settings), app.state.lifecycle, self.settings.drain_seconds, ready.set
        )
        self._thread = threading.Thread(target=self._server.run, args=(self._sockets,), name="server")
        self._thread.start()
        assert ready.wait(WAIT_SECONDS)

    @property
    def num_unsent_bytes(self) -> int:
        """What is kept in memory for all open connections because their clients have not taken it."""
        return sum(open_.transport.get_write_buffer_size() for open_ in list(self._server.server_state.connections))

    def begin_drain(self) -> None:
        """What SIGTERM does."""
        self._server.handle_exit(signal.SIGTERM, None)

    def wait_ended(self) -> None:
        """Block until it has ended by itself."""
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    def end(self) -> None:
        """Drain and end."""
        self.runner.release()
        self.begin_drain()
        self.wait_ended()
        for sock in self._sockets:
            sock.close()


@contextmanager
def serving(runner: FakeRunner | None = None, *, tracer: Tracer | None = None, **settings: Any) -> Iterator[AppServer]:
    """Run a service for as long as the context is open; by default around a `FakeRunner` with one-second windows."""
    server = AppServer(runner or FakeRunner(), settings, tracer)
    try:
        yield server
    finally:
        server.end()
