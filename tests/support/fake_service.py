"""The whole service in processes of its own, around a model that needs no weights.

`python -m tests.support.fake_service [worker]`; FAKE_SECONDS says how long each run takes, FAKE_GATE names a file: while a test
has it locked (`held_gate`) no run of any worker ends.
"""

from __future__ import annotations

import os
import sys

from fastapi import FastAPI

from service.app import create_app
from service.child import python_module
from service.keeper.client import KeeperClient
from service.logs import configure_logging
from service.server import end_process, run_server
from service.settings import Settings
from service.settings_source import load_settings
from service.supervisor import run_supervisor
from service.worker import run_worker
from tests.support.runners import GatedRunner


def create_ill_app(settings: Settings, *, keeper: KeeperClient | None = None) -> FastAPI:
    delay = float(os.environ.get("FAKE_SECONDS", "0"))
    gate = os.environ.get("FAKE_GATE")
    options = {} if gate is None else {"batch_sizes": (1,)}  # then it is known how many windows a held model has
    runner = GatedRunner(gate, delay_seconds=delay, keeps_calls=False, **options)
    return create_app(settings, keeper=keeper, runner=runner)


def main() -> None:
    if sys.argv[1:] == ["worker"]:
        end_process(run_worker(create_ill_app))
    settings = load_settings({})
    configure_logging(settings.log_format, settings.log_level)
    if settings.workers > 1:
        sys.exit(run_supervisor(settings, python_module("tests.support.fake_service", "worker")))
    end_process(run_server(settings, create_ill_app))


if __name__ == "__main__":
    main()
