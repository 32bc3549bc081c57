"""`sonotag bench`: find out how many live streams this machine can take, and let the service know.

It starts a service of its own with the given settings, or asks the one at --url. First streams are opened that send nothing,
for their memory (not with --url). Then live streams are fed with real sound at real speed, in pieces of 0.1 s: more and more of
them until the objective breaks (the lag's 99th percentile under --slo, no growing backlog, no window dropped), then numbers in
between. At last REST clients ask as fast as they are answered. The load comes from processes of their own; what they used, and
how late they were with what they sent, stands in the report. A stage that fails is named there, and the exit code is 1. The
limit that was found is written to where the service looks for it (SONOTAG_CAPACITY_FILE), unless --no-save is given or the
service is another one.

With --tune nothing of that is done: the model is run in all ways that make sense here, and the best is written there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from service import exit_codes
from service.bench.benchmark import Course, ServiceReport, Tell, run_benchmark
from service.bench.report import print_report, to_markdown
from service.bench.sounds import read_sounds
from service.bench.stages import Plan
from service.bench.target import OwnServer, Target
from service.capacity import write_saved
from service.capacity_file import capacity_path
from service.client.async_client import API_KEY_VARIABLE, check_address
from service.commands.bench_tune import finish_tune, run_tune
from service.commands.remote import read_key
from service.commands.setting_flags import PREFIX, add_setting_flags, read_settings
from service.errors import InvalidParameter
from service.machine import count_usable_cores
from service.settings import Settings
from service.settings_source import flag_of

SETTINGS = (
    "workers",
    "bundles",
    "provider",
    "precision",
    "threads",
    "max_lag_seconds",
    "max_queue_windows",
    "capacity_file",
    "log_level",
)
UNLIMITED_STREAMS = 1_000_000
CORES_A_GENERATOR = 8
"""One generator process for so many cores: one feeds some hundreds of streams from a core."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--url", help="the service to load; without it one is started here")
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="a file with an API key for the service, for clips, streams and metrics, where it asks for one. Default: the "
        f"variable {API_KEY_VARIABLE}; never a flag, which others can see",
    )
    parser.add_argument(
        "--tune",
        type=_positive,
        nargs="?",
        const=0.2,
        metavar="SECONDS",
        help="find the best precision, threads, lanes and batches for the model on this machine, and no streams; each way is "
        "measured for so long (0.2) in each of five rounds",
    )
    parser.add_argument("--slo", type=_positive, default=0.5, metavar="SECONDS", help="the objective for the lag (0.5)")
    parser.add_argument("--hop", type=_positive, default=1.0, metavar="SECONDS", help="of the live streams (1)")
    parser.add_argument("--seconds", type=_positive, default=10.0, help="how long each stage is measured (10)")
    parser.add_argument(
        "--streams", type=_numbers, default=(), metavar="N,N,...", help="try these numbers of live streams, and search none"
    )
    parser.add_argument("--first", type=_count, default=4, metavar="N", help="where the search begins (4)")
    parser.add_argument("--largest", type=_count, default=20_000, metavar="N", help="where the search ends (20000)")
    parser.add_argument(
        "--max-seconds",
        type=_positive,
        default=math.inf,
        metavar="SECONDS",
        help="begin no stage with live streams that would end later than this after the start of the service (no limit)",
    )
    parser.add_argument(
        "--clients", type=_numbers, default=(1, 4), metavar="N,N,...", help="numbers of REST clients (1,4); 0 for none"
    )
    parser.add_argument(
        "--idle-streams", type=int, default=50, metavar="N", help="streams that send nothing, for their memory (50)"
    )
    parser.add_argument(
        "--sound",
        action="append",
        default=[],
        metavar="FILE",
        help="what is sent, a second or more; repeatable (the bundle's speech)",
    )
    parser.add_argument("--sample-rate", type=_count, default=16_000, metavar="HZ", help="of what is sent (16000)")
    parser.add_argument("--generators", type=_count, metavar="N", help="processes that make the load (one for every 8 cores)")
    parser.add_argument("--no-save", action="store_true", help="do not write the limit to SONOTAG_CAPACITY_FILE")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON object there, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown, for documents")
    add_setting_flags(parser, SETTINGS)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write the limit.

    Raises:
        SonotagError: The service does not start or does not answer, a sound cannot be read, or the limit cannot be written.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the service that it has started ends with it, as at Control-C
    settings = read_settings(args, quiet=True)
    if args.url is not None:
        check_address(args.url)
    if args.output is not None and not args.output.parent.is_dir():
        raise InvalidParameter(f"there is no folder {args.output.parent} to write the report into", param="output")
    if args.tune is not None:
        with _progress() as tell:
            tuned = run_tune(args, settings, tell)
        return finish_tune(tuned, args, settings)
    try:
        sounds = read_sounds(args.sound, settings, args.sample_rate)
    except OSError as error:
        print(f"sonotag bench: {error.filename}: {error.strerror}", file=sys.stderr)
        return exit_codes.FAILURE
    if args.seconds < args.hop:
        raise InvalidParameter(
            f"--seconds is {args.seconds:g}, at least the hop must be measured, {args.hop:g} s", param="seconds"
        )
    api_key = os.environ.get(API_KEY_VARIABLE) if args.api_key_file is None else read_key(args.api_key_file)
    if args.url is not None:
        serving: AbstractContextManager[Target] = nullcontext(Target(args.url, api_key=api_key))
    else:
        serving = OwnServer(_flags_of(args), api_key=api_key)
    with _progress() as tell:
        tell("starting the service", 0.0)
        with serving as target:
            plan = Plan(
                sounds=sounds,
                sample_rate=args.sample_rate,
                hop_seconds=args.hop,
                slo_seconds=args.slo,
                settle_seconds=target.describe().window_seconds + args.hop,
                measure_seconds=args.seconds,
                grace_seconds=max(args.slo, settings.max_lag_seconds) + 0.5,
                num_generators=args.generators or max(1, count_usable_cores() // CORES_A_GENERATOR),
            )
            clients = tuple(number for number in args.clients if number)
            course = Course(args.streams, args.first, args.largest, clients, args.idle_streams, args.max_seconds)
            report = run_benchmark(target, plan, course, tell)
    saved = None if args.no_save or args.url is not None else _save(report, settings)
    _print(report, saved, args)
    for failed in report.failed:
        print(f"sonotag bench: {failed.stage}: {failed.reason}", file=sys.stderr)
    return exit_codes.FAILURE if report.largest is None or report.failed else exit_codes.OK


def _save(report: ServiceReport, settings: Settings) -> Path | None:
    measurement = report.to_measurement()
    if measurement is None:
        return None
    path = capacity_path(settings)
    write_saved(path, limit=measurement)
    return path


def _print(report: ServiceReport, saved: Path | None, args: argparse.Namespace) -> None:
    text = json.dumps(report.to_document() | {"saved": None if saved is None else str(saved)}, indent=2)
    if args.output is not None:
        args.output.write_text(text + "\n")
    if args.json:
        print(text)
        return
    if args.markdown:
        print(to_markdown(report), end="")
        return
    console = Console()
    # A pipe has no width; 80 columns would break the numbers.
    print_report(report, console if console.is_terminal else Console(width=160))
    if saved is not None:
        print(f"Written to {saved}: sonotag serve takes no more streams than that where SONOTAG_MAX_STREAMS is not set.")
    elif report.is_limit and not args.no_save and args.url is not None:
        print("Not written: only the limit of a service started here is.")


def _flags_of(args: argparse.Namespace) -> list[str]:
    """Return the flags of the service: those given, and no limit but what it can do."""
    flags = ["--max-streams", str(UNLIMITED_STREAMS)]
    for name in SETTINGS:
        if (value := getattr(args, PREFIX + name)) is not None:
            flags += [flag_of(name), value]
    return flags if getattr(args, PREFIX + "log_level") is not None else [*flags, "--log-level", "warning"]


@contextmanager
def _progress() -> Iterator[Tell]:
    """Show which stage runs, and how long it has run of what it takes, where standard error is a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with progress:
        task = progress.add_task("")

        def tell(stage: str, seconds: float) -> None:
            progress.reset(task, description=f"{stage}, {seconds:.0f} s" if seconds else stage)

        yield tell


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _numbers(text: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not N,N,...") from error
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text} has a number below 0")
    return values
