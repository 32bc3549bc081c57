"""`sonotag bench --tune`: measure how the default model runs best on this machine, and let the service know."""

from __future__ import annotations

import argparse
import json
import os

from rich.console import Console

from service import exit_codes
from service.bench.report import print_tuning, tuning_to_markdown
from service.bench.tuner import Tell, TuningReport, tune
from service.capacity import write_saved
from service.capacity_file import capacity_path
from service.errors import InvalidParameter
from service.gpu_choice import choose_gpu
from service.settings import Settings


def run_tune(args: argparse.Namespace, settings: Settings, tell: Tell) -> TuningReport:
    """Measure.

    Raises:
        SonotagError: The model cannot be run, or a service elsewhere was named.
    """
    if args.url is not None:
        raise InvalidParameter("--tune measures the model on this machine: it goes without --url", param="url")
    # As `sonotag serve` does for its first worker.
    os.environ.update(choose_gpu(os.environ, settings.gpus, worker=0))
    return tune(settings, args.tune, tell)


def finish_tune(report: TuningReport, args: argparse.Namespace, settings: Settings) -> int:
    """Write what was found, and print it.

    Raises:
        SettingsError: It cannot be written.
    """
    path = None if args.no_save else capacity_path(settings)
    if path is not None:
        write_saved(path, tuning=report.tuning)
    text = json.dumps(report.to_document() | {"saved": None if path is None else str(path)}, indent=2)
    if args.output is not None:
        args.output.write_text(text + "\n")
    if args.json:
        print(text)
    elif args.markdown:
        print(tuning_to_markdown(report), end="")
    else:
        console = Console()
        print_tuning(report, console if console.is_terminal else Console(width=160))
        if path is not None:
            print(f"Written to {path}: sonotag serve runs the model so from its next start on.")
            print("How many live streams that carries, sonotag bench measures.")
    return exit_codes.OK
