"""`sonotag classify`: say what is heard in files, in this process or by a service (--url): a table, JSON lines or CSV.

Folders are searched all the way down, but for files that are no sound by their names (.txt, .png and the like); `-` reads one
file from standard input. A file that cannot be scored is reported and the rest goes on; the exit code is 1 then. The flags and
the numbers are those of POST /v1/classify.
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
from typing import NamedTuple

from service import exit_codes
from service.answers import ClassifyQuery, ClipAnswer, ErrorBody, error_body
from service.client import BadAnswer, Unreachable
from service.client.async_client import DEFAULT_CONCURRENCY
from service.commands.answer_file import open_answers
from service.commands.classify_flags import CONCURRENCY, add_arguments, answer_parts, check, make_query
from service.commands.clip_output import ClipOutput, CsvOutput, JsonOutput, TableOutput
from service.commands.clip_work import ClipWork, RemoteWork, open_local_work
from service.commands.local_engine import ending_at_once
from service.commands.progress import ProgressBar
from service.commands.remote import open_client
from service.commands.setting_flags import read_settings
from service.commands.sound_files import STANDARD_INPUT, SoundFile, find_sound_files, leave_out
from service.errors import Forbidden, InvalidParameter, NotFound, ServiceError, Unauthorised
from service.settings import Settings

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Score the files and print the answers.

    Raises:
        StartError: A setting is not allowed, or the model cannot be loaded.
        BodyTooLarge: More comes through a pipe than is read.
    """
    settings = read_settings(args, quiet=True)
    try:
        check(args)
        query = make_query(args)
        if STANDARD_INPUT in args.paths and sys.stdin.isatty():
            raise InvalidParameter("- reads a file from standard input, which is a terminal here: sonotag classify - < FILE")
        # Before the event loop runs: a read that blocks here is one that Control-C ends.
        files, others = leave_out(_without_output(find_sound_files(args.paths, settings.max_body_bytes), args.output))
        if others:
            print(f"sonotag classify: {_left_out(others)}", file=sys.stderr)
        if not files:
            what = "other file" if others else "file"
            print(f"sonotag classify: there is no {what} in {', '.join(args.paths)}", file=sys.stderr)
            return exit_codes.FAILURE
        if args.output is not None:
            return _write_file(files, query, args, settings)
        with ending_at_once(), ProgressBar(len(files)) as bar:
            sink = Sink(_make_output(args), partial(_print, bar))
            sink.write(sink.output.head())
            num_failed = asyncio.run(_classify(files, query, args, settings, sink, bar))
        return exit_codes.FAILURE if num_failed else exit_codes.OK
    except (InvalidParameter, NotFound) as error:
        print(f"sonotag classify: {error.message}", file=sys.stderr)
        return exit_codes.USAGE


def _without_output(files: list[SoundFile], output: str | None) -> list[SoundFile]:
    """Leave out what is written: beside the sound it would be taken for a sound that cannot be read."""
    if output is None:
        return files
    path = Path(output).absolute()
    return [file for file in files if file.path is None or file.path.absolute() != path]


def _left_out(others: list[SoundFile]) -> str:
    suffixes = sorted({file.path.suffix.lower() for file in others if file.path is not None})
    count = "1 file is" if len(others) == 1 else f"{len(others)} files are"
    return f"{count} left out as no sound by the name ({', '.join(suffixes)}); what is named itself is read in any case"


def _make_output(args: argparse.Namespace) -> ClipOutput:
    if args.json:
        return JsonOutput()
    return CsvOutput() if args.csv else TableOutput()


def _write_file(files: list[SoundFile], query: ClassifyQuery, args: argparse.Namespace, settings: Settings) -> int:
    """Write the answers to `--output` and say on standard error what became of the files."""
    path = Path(args.output)
    try:
        with closing(open_answers(path, answer_parts(query))) as answers:
            if answers.doubt:
                print(f"sonotag classify: {args.output}: {answers.doubt}", file=sys.stderr)
            left = [file for file in files if file.path is None or file.name not in answers.done]
            num_failed = 0
            if left:
                with ending_at_once(), ProgressBar(len(left)) as bar:
                    sink = Sink(answers.output, answers.write)
                    num_failed = asyncio.run(_classify(left, query, args, settings, sink, bar))
            answers.finish()
    except OSError as error:
        print(f"sonotag classify: {args.output}: {error.strerror or error}", file=sys.stderr)
        return exit_codes.FAILURE
    num_scored = len(left) - num_failed
    parts = [f"{num_scored} file{'' if num_scored == 1 else 's'} scored"]
    if num_failed:
        parts.append(f"{num_failed} failed")
    if len(left) < len(files):
        parts.append(f"{len(files) - len(left)} there already")
    print(f"sonotag classify: {args.output}: {', '.join(parts)}", file=sys.stderr)
    return exit_codes.FAILURE if num_failed else exit_codes.OK


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
    """Score the files and return how many could not be."""
    if args.url is None:
        async with open_local_work(query, settings) as work:
            return await _write_answers(files, work, sink, bar, args.jobs or CONCURRENCY)
    async with open_client(args) as client:
        work = RemoteWork(client, query, is_watched=bar.is_shown)
        return await _write_answers(files, work, sink, bar, args.jobs or DEFAULT_CONCURRENCY)


async def _write_answers(files: list[SoundFile], work: ClipWork, sink: Sink, bar: ProgressBar, concurrency: int) -> int:
    """Score some files at a time, write their answers in the order of the files, and return how many have none."""
    num_failed = 0
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
            num_failed += 1
            with bar.hidden():
                print(f"sonotag classify: {file.name}: {result.message}", file=sys.stderr)
            sink.write(sink.output.error(file.name, result))
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
    return num_failed


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
