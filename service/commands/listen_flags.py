"""The command line of `sonotag listen`: what may be said, what does not go together, and what it asks of a stream."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from service.audio.formats import ENCODINGS, RawFormat
from service.commands.addresses import is_address
from service.commands.listen_network import DEFAULT_GIVE_UP_SECONDS
from service.commands.listen_sources import Source
from service.commands.local_engine import add_engine_flags
from service.commands.query_flags import add_query_flags, query_items
from service.commands.remote import add_url_flag, check_url_flags
from service.commands.sound_files import STANDARD_INPUT
from service.errors import InvalidParameter
from service.streaming.configuration import DEFAULT_THRESHOLD, DEFAULT_TOP_K
from service.streaming.messages import OnLag

MAX_GIVE_UP_SECONDS = 365 * 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a file of sound, an address (http, https, rtsp), or -. Default: the microphone (needs the extra mic)",
    )
    device = parser.add_mutually_exclusive_group()
    device.add_argument(
        "--device",
        metavar="DEVICE",
        help="which microphone: its number, its name or a part of that. Default: the system's choice",
    )
    device.add_argument("--list-devices", action="store_true", help="print the microphones that there are, and end")
    parser.add_argument("--json", action="store_true", help="print the messages of the wire, one a line")
    parser.add_argument(
        "--pace",
        type=float,
        nargs="?",
        const=1.0,
        default=1.0,
        metavar="SPEED",
        help="how many times real speed a file is played; 0: as fast as it can be scored. Default: 1",
    )
    parser.add_argument(
        "--give-up",
        type=float,
        default=DEFAULT_GIVE_UP_SECONDS,
        metavar="SECONDS",
        help=f"how long an address that is lost is tried again; 0: not at all. Default: {DEFAULT_GIVE_UP_SECONDS:g}",
    )
    group = parser.add_argument_group("raw samples")
    group.add_argument(
        "--encoding", choices=("auto", *ENCODINGS), default="auto", help="what the bytes are. Default: auto, a container"
    )
    group.add_argument("--sample-rate", type=int, metavar="HZ", help="of raw samples")
    group.add_argument("--channels", type=int, metavar="N", help="of raw samples, interleaved. Default: 1")
    add_query_flags(parser, top_k=DEFAULT_TOP_K, threshold=DEFAULT_THRESHOLD)
    group = parser.add_argument_group("events and lag")
    events = group.add_mutually_exclusive_group()
    events.add_argument("--no-events", action="store_true", help="print tags only")
    events.add_argument("--event-options", metavar="JSON", help='what counts as an event, such as {"onset_threshold": 0.4}')
    group.add_argument(
        "--on-lag",
        choices=get_args(OnLag),
        help="what happens when the model is too slow. Default: skip, and wait for a file with --pace 0",
    )
    add_url_flag(parser)
    add_engine_flags(parser)


def check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before the model is loaded.

    Raises:
        InvalidParameter: Something is out of its range, or does not go with something else.
    """
    check_url_flags(args)
    if not 0 <= args.pace <= 1000:
        raise InvalidParameter(f"--pace is {args.pace:g}; it must be from 0 to 1000", param="pace")
    if not 0 <= args.give_up <= MAX_GIVE_UP_SECONDS:
        raise InvalidParameter(f"--give-up is {args.give_up:g}; it must be from 0 to {MAX_GIVE_UP_SECONDS:g}", param="give_up")
    if args.source is not None:
        for flag, is_given in (("--device", args.device is not None), ("--list-devices", args.list_devices)):
            if is_given:
                raise InvalidParameter(f"{flag} is about microphones: leave out {args.source}, or {flag}")
        if is_address(args.source) and args.encoding != "auto":
            raise InvalidParameter("an address tells what its sound is: leave out --encoding")
    elif args.encoding != "auto":
        raise InvalidParameter("a microphone tells what its sound is: leave out --encoding; - reads standard input")
    if args.source == STANDARD_INPUT and sys.stdin.isatty():
        raise InvalidParameter("- reads sound from standard input, which is a terminal here: COMMAND | sonotag listen -")
    if args.encoding == "auto":
        for flag, value in (("--sample-rate", args.sample_rate), ("--channels", args.channels)):
            if value is not None:
                raise InvalidParameter(f"{flag} goes with raw samples: name their --encoding too")
    elif args.sample_rate is None:
        raise InvalidParameter(f"--encoding {args.encoding} needs --sample-rate: raw samples do not tell it")
    raw_format(args)


def raw_format(args: argparse.Namespace) -> RawFormat | None:
    """Return what raw samples are; None for a container.

    Raises:
        InvalidParameter: There is no such rate or number of channels.
    """
    if args.encoding == "auto":
        return None
    return RawFormat(args.encoding, args.sample_rate, 1 if args.channels is None else args.channels)


def choices(args: argparse.Namespace, source: Source) -> list[tuple[str, str]]:
    """Return what is wanted of the sound, as a stream's query."""
    items = [(name, value) for name, value in query_items(args) if name != "channel"]  # the source's business
    if args.model is not None:
        items.append(("model", args.model))
    if args.no_events:
        items.append(("events", "false"))
    if args.event_options is not None:
        items.append(("events", args.event_options))
    is_unhurried = not source.is_live and not args.pace
    items.append(("on_lag", args.on_lag or ("wait" if is_unhurried else "skip")))
    return items
