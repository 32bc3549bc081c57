"""One of several server processes, started by `service.supervisor` as `python -m service.worker`.

Standard input brings an `Order` and stays open for as long as the supervisor lives; on standard output this process says
`READY` once.
"""

from __future__ import annotations

import pickle
import socket
import sys
from typing import Protocol

from fastapi import FastAPI

from service.errors import StartError
from service.exit_codes import START
from service.keeper.client import KeeperClient, LinkedKeeper
from service.logs import configure_logging
from service.server import end_process, serve_app
from service.settings import Settings
from service.worker_order import READY, Order


class AppFactory(Protocol):
    """Makes the application, as `service.app.create_app`."""

    def __call__(self, settings: Settings, *, keeper: KeeperClient | None = None) -> FastAPI:
        """Make it for these settings, with the way to the keeper."""
        ...


def run_worker(create_app: AppFactory) -> int:
    """Serve until the supervisor says that it is over, or is gone, and return the exit code."""
    order = pickle.load(sys.stdin.buffer)
    assert isinstance(order, Order)
    settings = order.settings
    configure_logging(settings.log_format, settings.log_level)
    sockets = [socket.socket(fileno=fd) for fd in order.fds]
    try:
        app = create_app(settings, keeper=LinkedKeeper(socket.socket(fileno=order.keeper_fd)))
        if order.replaces is not None:
            app.state.metrics.worker_replaced(order.replaces)
        return serve_app(
            app,
            settings,
            sockets,
            on_ready=_say_ready,
            parent_fd=sys.stdin.fileno(),
            listens_when_ready=order.listens_when_ready,
        )
    except StartError as error:
        print(f"sonotag serve: {error}", file=sys.stderr)
        return START


def _say_ready() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


def main() -> None:
    """Run a worker with the real application."""
    from service.app import create_app

    end_process(run_worker(create_app))


if __name__ == "__main__":
    main()
