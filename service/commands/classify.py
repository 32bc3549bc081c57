"""`sonotag classify`: say what is heard in files, in this process or by a service (--url): a table, JSON lines or CSV.

Folders are searched all the way down; `-` reads one file from standard input. A file that cannot be scored is reported and
the rest goes on; the exit code is 1 then. The flags and the numbers are those of POST /v1/classify.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import pydantic

from service import exit_codes
from service.answers import ClassifyQuery, ClipAnswer, ErrorBody, error_body
from service.client import BadAnswer, Unreachable
from service.client.async_client import DEFAULT_CONCURRENCY
from service.commands.answer_file import JSON_SUFFIXES, SUFFIXES, check_output, open_answers
from service.commands.clip_output import ClipOutput, CsvOutput, JsonOutput, TableOutput
from service.commands.clip_work import ClipWork, RemoteWork, open_local_work
from service.commands.local_engine import add_engine_flags, ending_at_once
from service.commands.progress import ProgressBar
from service.commands.query_flags import add_query_flags, query_items
from service.commands.remote import add_url_flag, check_url_flags, open_client
from service.commands.setting_flags import read_settings
from service.commands.sound_files import STANDARD_INPUT, SoundFile, find_sound_files
from service.errors import Forbidden, InvalidParameter, NotFound, ServiceError, Unauthorised
from service.postprocess.scores import Aggregation
from service.settings import Settings
from service.validation import parameter_error

CONCURRENCY = 2
"""Files under way at once: one is decoded while the other is scored."""
MAX_JOBS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    defaults = ClassifyQuery()
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder, or - for standard input")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON object a line, one line a file")
    shape.add_argument("--csv", action="store_true", help="print CSV: a row for each tag, window's tag, event and error")
    shape.add_argument(
        "--output", metavar="FILE", help=f"write to a file, by its name CSV, JSON lines or Parquet: {', '.join(SUFFIXES)}"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with --output: files that are answered in it are left out, failed ones are not",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help=f"files under way at once. Default: {CONCURRENCY} here, {DEFAULT_CONCURRENCY} with --url",
    )
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
    group.add_argument("--embedding", action="store_true", help="print the embedding too; in JSON only")
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
        _check(args)
        query = _make_query(args)
        if STANDARD_INPUT in args.paths and sys.stdin.isatty():
            raise InvalidParameter("- reads a file from standard input, which is a terminal here: sonotag classify - < FILE")
        # Before the event loop runs: a read that blocks here is one that Control-C ends.
        files = find_sound_files(args.paths, settings.max_body_bytes)
        if not files:
            print(f"sonotag classify: there is no file in {', '.join(args.paths)}", file=sys.stderr)
            return exit_codes.FAILURE
        if args.output is not None:
            return _write_file(files, query, args, settings)
        with ending_at_once(), ProgressBar(len(files)) as bar:
            sink = Sink(_make_output(args), partial(_print, bar))
            sink.write(sink.output.head())
            return asyncio.run(_classify(files, query, args, settings, sink, bar))
    except (InvalidParameter, NotFound) as error:
        print(f"sonotag classify: {error.message}", file=sys.stderr)
        return exit_codes.USAGE


def _check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is read."""
    check_url_flags(args)
    if args.jobs is not None and not 1 <= args.jobs <= MAX_JOBS:
        raise InvalidParameter(f"--jobs is {args.jobs}; it must be from 1 to {MAX_JOBS}", param="jobs")
    if args.output is not None:
        check_output(Path(args.output), resume=args.resume)
    elif args.resume:
        raise InvalidParameter("--resume goes on with a file: name it with --output")


def _make_query(args: argparse.Namespace) -> ClassifyQuery:
    if args.embedding and not (args.json or Path(args.output or "").suffix.lower() in JSON_SUFFIXES):
        raise InvalidParameter("--embedding goes with JSON only: --json, or --output FILE.jsonl", param="embedding")
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


def _write_file(files: list[SoundFile], query: ClassifyQuery, args: argparse.Namespace, settings: Settings) -> int:
    """Write the answers to `--output` and say on standard error what became of the files."""
    path = Path(args.output)
    # Beside the sound it would be taken for a sound that cannot be read.
    files = [file for file in files if file.path is None or file.path.absolute() != path.absolute()]
    try:
        with closing(open_answers(path)) as answers:
            left = [file for file in files if file.path is None or file.name not in answers.done]
            code = exit_codes.OK
            if left:
                with ending_at_once(), ProgressBar(len(left)) as bar:
                    sink = Sink(answers.output, answers.write)
                    code = asyncio.run(_classify(left, query, args, settings, sink, bar))
            answers.finish()
    except OSError as error:
        print(f"sonotag classify: {args.output}: {error.strerror or error}", file=sys.stderr)
        return exit_codes.FAILURE
    skipped = f", {len(files) - len(left)} were there already" if len(left) < len(files) else ""
    print(f"sonotag classify: {args.output}: {len(left)} files scored{skipped}", file=sys.stderr)
    return code


class Sink(NamedTuple):
    """Where answers go: what makes text of them, and what takes the text of one file."""

    output: ClipOutput
    write: Callable[[str], None]


async def _classify(
    files: list[SoundFile],
    query: ClassifyQuery,
    args: argparse.Namespace,
    settings: Settings,
    sink: Sink,
    bar: ProgressBar,
) -> int:
    if args.url is None:
        async with open_local_work(query, settings) as work:
            return await _write_answers(files, work, sink, bar, args.jobs or CONCURRENCY)
    async with open_client(args) as client:
        work = RemoteWork(client, query, is_watched=bar.is_shown)
        return await _write_answers(files, work, sink, bar, args.jobs or DEFAULT_CONCURRENCY)


async def _write_answers(files: list[SoundFile], work: ClipWork, sink: Sink, bar: ProgressBar, concurrency: int) -> int:
    """Score some files at a time and write their answers in the order of the files."""
    code = exit_codes.OK
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
                sink.write(sink.output.answer(file.name, result))
                continue
            code = exit_codes.FAILURE
            with bar.hidden():
                print(f"sonotag classify: {file.name}: {result.message}", file=sys.stderr)
            sink.write(sink.output.error(file.name, result))
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
    return isinstance(error, (Unreachable, BadAnswer, Unauthorised, Forbidden))


def _print(bar: ProgressBar, text: str) -> None:
    if text:
        with bar.hidden():
            sys.stdout.write(text)
            sys.stdout.flush()  # whoever reads a pipe sees each file as it is done
