"""`sonotag classify`: say what is heard in files, in this process or by a service (--url): a table, JSON lines or CSV.

Folders are searched all the way down; `-` reads one file from standard input. A file that cannot be scored is reported and
the rest goes on; the exit code is 1 then. The flags and the numbers are those of POST /v1/classify.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque
from typing import get_args

import pydantic

from service import exit_codes
from service.answers import ClassifyQuery, ClipAnswer, ErrorBody, error_body
from service.client import AsyncClient, BadAnswer, Unreachable
from service.client.async_client import DEFAULT_CONCURRENCY
from service.commands.clip_output import ClipOutput, CsvOutput, JsonOutput, TableOutput
from service.commands.clip_work import ClipWork, RemoteWork, open_local_work
from service.commands.local_engine import add_engine_flags, ending_at_once
from service.commands.progress import ProgressBar
from service.commands.query_flags import add_query_flags, query_items
from service.commands.remote import add_url_flag, check_url_flags
from service.commands.setting_flags import read_settings
from service.commands.sound_files import STANDARD_INPUT, SoundFile, find_sound_files
from service.errors import InvalidParameter, NotFound, ServiceError
from service.postprocess.scores import Aggregation
from service.settings import Settings
from service.validation import parameter_error

CONCURRENCY = 2
"""Files under way at once: one is decoded while the other is scored."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    defaults = ClassifyQuery()
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder, or - for standard input")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON object a line, one line a file")
    shape.add_argument("--csv", action="store_true", help="print CSV: a row for each tag, window's tag, event and error")
    add_query_flags(parser, top_k=defaults.top_k, threshold=defaults.threshold)
    group = parser.add_argument_group("windows and events")
    group.add_argument(
        "--aggregate",
        choices=get_args(Aggregation),
        default=defaults.aggregate,
        help=f"how the windows' scores become one. Default: {defaults.aggregate}",
    )
    group.add_argument("--timeline", action="store_true", help="print each window's tags too")
    group.add_argument("--events", action="store_true", help="print what is heard from when to when too")
    group.add_argument(
        "--event-options", metavar="JSON", help='what counts as an event, such as {"onset_threshold": 0.4}; implies --events'
    )
    group.add_argument("--embedding", action="store_true", help="print the embedding too; with --json only")
    add_url_flag(parser)
    add_engine_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Score the files and print the answers.

    Raises:
        StartError: A setting is not allowed, or the model cannot be loaded.
        BodyTooLarge: More comes through a pipe than is read.
    """
    settings = read_settings(args, quiet=True)
    try:
        check_url_flags(args)
        query = _make_query(args)
        if STANDARD_INPUT in args.paths and sys.stdin.isatty():
            raise InvalidParameter("- reads a file from standard input, which is a terminal here: sonotag classify - < FILE")
        # Before the event loop runs: a read that blocks here is one that Control-C ends.
        files = find_sound_files(args.paths, settings.max_body_bytes)
        if not files:
            print(f"sonotag classify: there is no file in {', '.join(args.paths)}", file=sys.stderr)
            return exit_codes.FAILURE
        with ending_at_once(), ProgressBar(len(files)) as bar:
            return asyncio.run(_classify(files, query, args, settings, bar))
    except (InvalidParameter, NotFound) as error:
        print(f"sonotag classify: {error.message}", file=sys.stderr)
        return exit_codes.USAGE


def _make_query(args: argparse.Namespace) -> ClassifyQuery:
    if args.embedding and not args.json:
        raise InvalidParameter("--embedding goes with --json only", param="embedding")
    items = query_items(args)
    document: dict[str, object] = {name: value for name, value in items if name not in ("labels", "exclude")}
    for name in ("labels", "exclude"):
        document[name] = [value for given, value in items if given == name]
    if args.events or args.event_options is not None:
        document["events"] = "true" if args.event_options is None else args.event_options
    document |= {name: getattr(args, name) for name in ("aggregate", "timeline", "embedding", "model")}
    try:
        return ClassifyQuery.model_validate(document)
    except pydantic.ValidationError as error:
        raise parameter_error(error, ClassifyQuery.model_fields) from error


def _make_output(args: argparse.Namespace) -> ClipOutput:
    if args.json:
        return JsonOutput()
    return CsvOutput() if args.csv else TableOutput()


async def _classify(
    files: list[SoundFile], query: ClassifyQuery, args: argparse.Namespace, settings: Settings, bar: ProgressBar
) -> int:
    output = _make_output(args)
    if args.url is None:
        async with open_local_work(query, settings) as work:
            return await _write_answers(files, work, output, bar, CONCURRENCY)
    async with AsyncClient(args.url) as client:
        return await _write_answers(files, RemoteWork(client, query), output, bar, DEFAULT_CONCURRENCY)


async def _write_answers(files: list[SoundFile], work: ClipWork, output: ClipOutput, bar: ProgressBar, concurrency: int) -> int:
    """Score some files at a time and write their answers in the order of the files."""
    code = exit_codes.OK
    _write(output.head(), bar)
    waiting = deque(enumerate(files))
    running: deque[tuple[SoundFile, asyncio.Task[ClipAnswer | ErrorBody]]] = deque()
    try:
        while waiting or running:
            while waiting and len(running) < concurrency:
                index, file = waiting.popleft()
                running.append((file, asyncio.create_task(_answer(work, index, file, bar))))
            file, task = running[0]
            result = await task
            running.popleft()
            if isinstance(result, ClipAnswer):
                _write(output.answer(file.name, result), bar)
                continue
            code = exit_codes.FAILURE
            with bar.hidden():
                print(f"sonotag classify: {file.name}: {result.message}", file=sys.stderr)
            _write(output.error(file.name, result), bar)
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
    return code


async def _answer(work: ClipWork, index: int, file: SoundFile, bar: ProgressBar) -> ClipAnswer | ErrorBody:
    """Score one file; return its answer, or why there is none.

    Raises:
        ServiceError: It is no fault of the file: the next one would meet it too.
    """

    def report(fraction: float) -> None:
        bar.update(index, file.name, fraction)

    report(0.0)
    try:
        return await work.score(file, report)
    except ServiceError as error:
        if _concerns_all(error):
            raise
        return error_body(error)
    except OSError as error:
        return ErrorBody(code="unreadable", message=error.strerror or str(error))
    finally:
        report(1.0)


def _concerns_all(error: ServiceError) -> bool:
    """Return whether a service says of one file what it would say of every one."""
    if isinstance(error, (InvalidParameter, NotFound)):
        return error.param not in ("channel", "timeline", None)  # which a file lacks, or which is too long for one answer
    return isinstance(error, (Unreachable, BadAnswer))


def _write(text: str, bar: ProgressBar) -> None:
    if text:
        with bar.hidden():
            sys.stdout.write(text)
            sys.stdout.flush()  # whoever reads a pipe sees each file as it is done
