"""`sonotag serve`: run the service until SIGTERM or Control-C.

The first signal lets what is under way finish (SONOTAG_DRAIN_SECONDS), the second ends it at once.
"""

from __future__ import annotations

import argparse
import os

from service.commands.setting_flags import add_setting_flags, read_settings
from service.gpu_choice import check_gpus, choose_gpu
from service.gpus import GpuReader
from service.metrics_folder import prepare_metrics_folder
from service.settings import Settings
from service.supervisor import run_supervisor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_setting_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Serve.

    Raises:
        StartError: It cannot start as it is configured.
    """
    settings = read_settings(args)
    if settings.provider != "cpu":
        check_gpus(os.environ, settings.gpus, settings.workers, GpuReader().count() if settings.gpus else None)
    return run_supervisor(settings) if settings.workers > 1 else _run_alone(settings)


def _run_alone(settings: Settings) -> int:
    # Whoever sets PROMETHEUS_MULTIPROC_DIR gets the multiprocess mode with one process, on an empty folder.
    prepare_metrics_folder(os.environ)
    os.environ.update(choose_gpu(os.environ, settings.gpus, worker=0))
    # Only here: the supervisor's own process needs neither the models nor the web framework.
    from service.app import create_app
    from service.server import end_process, run_server

    end_process(run_server(settings, create_app))
