"""The command line of `sonotag classify`: what may be said, what does not go together, and what it asks of a clip."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import pydantic

from service.answers import ClassifyQuery
from service.client.async_client import DEFAULT_CONCURRENCY
from service.commands.answer_file import JSON_SUFFIXES, SUFFIXES, check_output
from service.commands.local_engine import add_engine_flags
from service.commands.query_flags import add_query_flags, query_items
from service.commands.remote import add_url_flag, check_url_flags
from service.errors import InvalidParameter
from service.postprocess.scores import Aggregation
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
        help="go on with --output: files that are answered in it are left out, failed ones are not. The other flags must be "
        "those that it was made with: what was asked, and of which model, is not written down in it",
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


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        InvalidParameter: Something is out of its range, or does not go with something else.
        StartError: The output's format needs what is not installed.
    """
    check_url_flags(args)
    if args.jobs is not None and not 1 <= args.jobs <= MAX_JOBS:
        raise InvalidParameter(f"--jobs is {args.jobs}; it must be from 1 to {MAX_JOBS}", param="jobs")
    if args.output is not None:
        check_output(Path(args.output), resume=args.resume)
    elif args.resume:
        raise InvalidParameter("--resume goes on with a file: name it with --output")


def answer_parts(query: ClassifyQuery) -> frozenset[str]:
    """Return what answers have beside the tags, of `PART_FLAGS`."""
    asked = {"windows": query.timeline, "events": query.events is not None, "embedding": query.embedding}
    return frozenset(part for part, is_asked in asked.items() if is_asked)


def make_query(args: argparse.Namespace) -> ClassifyQuery:
    """Return what is asked of every clip.

    Raises:
        InvalidParameter: It is out of range; what the model allows is checked later.
    """
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
