"""`sonotag listen`: say what is heard in sound as it comes: tags each hop, events when they begin and end.

It is scored in this process, or by a service (--url). Without SOURCE the microphone is listened to. A file is played at its
own speed, as a live stream would come. An address is connected to again where it is lost. `-` (or a named pipe) reads standard
input: a container, or raw samples with --encoding, --sample-rate and --channels. Control-C ends it: what came is scored, the
summary is the last line; a second one ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import get_args

from service import exit_codes
from service.audio.formats import ENCODINGS, RawFormat
from service.commands.device_list import print_devices
from service.commands.listen_local import LocalChannel
from service.commands.listen_network import DEFAULT_GIVE_UP_SECONDS, is_address, open_network
from service.commands.listen_output import JsonLines, MessagePrinter, TextLines
from service.commands.listen_sources import Source, open_file, open_pipe
from service.commands.local_engine import add_engine_flags, ending_at_once, open_engine, open_pool
from service.commands.microphone import Microphone, find_microphone, list_devices, load_backend, open_microphone
from service.commands.query_flags import add_query_flags, query_items
from service.commands.remote import add_url_flag, check_url_flags, open_client, until_stopped
from service.commands.setting_flags import read_settings
from service.commands.sound_files import STANDARD_INPUT, is_pipe
from service.engine import Engine
from service.errors import InvalidParameter, NotFound, ServiceError
from service.settings import Settings
from service.streaming.configuration import DEFAULT_THRESHOLD, DEFAULT_TOP_K
from service.streaming.driver import StreamDriver
from service.streaming.messages import OnLag, parse_query

MAX_GIVE_UP_SECONDS = 365 * 86_400.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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


def run(args: argparse.Namespace) -> int:
    """Listen until the sound ends.

    Raises:
        StartError: A setting is not allowed, or the model cannot be loaded.
        ServiceError: The file is no sound that can be read.
        BrokenPipeError: Nobody reads the output any more.
    """
    settings = read_settings(args, quiet=True)
    try:
        _check(args)
        if args.list_devices:
            return print_devices(list_devices(load_backend()), as_json=args.json)
        microphone = find_microphone(args.device) if args.source is None else None
        with ending_at_once():
            return asyncio.run(_listen(args, settings, microphone))
    except (InvalidParameter, NotFound) as error:
        print(f"sonotag listen: {error.message}", file=sys.stderr)
        return exit_codes.USAGE
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"sonotag listen: {args.source or 'the microphone'}: {error.strerror or error}", file=sys.stderr)
        return exit_codes.FAILURE


def _check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before the model is loaded."""
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
    _raw_format(args)


def _raw_format(args: argparse.Namespace) -> RawFormat | None:
    if args.encoding == "auto":
        return None
    return RawFormat(args.encoding, args.sample_rate, 1 if args.channels is None else args.channels)


def _open_source(
    args: argparse.Namespace, engine: Engine, microphone: Microphone | None
) -> AbstractAsyncContextManager[Source]:
    raw = _raw_format(args)
    if microphone is not None:
        return open_microphone(engine, *microphone, args.channel, _report)
    if args.source == STANDARD_INPUT:
        return open_pipe(sys.stdin.fileno(), raw, args.channel)
    if is_address(args.source):
        return open_network(engine, args.source, args.channel, args.pace, args.give_up, _report)
    if is_pipe(args.source):
        return _open_named_pipe(args, engine, raw)
    return open_file(engine, Path(args.source), raw, args.channel, args.pace)


@asynccontextmanager
async def _open_named_pipe(args: argparse.Namespace, engine: Engine, raw: RawFormat | None) -> AsyncIterator[Source]:
    with await engine.run(lambda: Path(args.source).open("rb", buffering=0)) as pipe:
        async with open_pipe(pipe.fileno(), raw, args.channel) as source:
            yield source


def _report(text: str) -> None:
    sys.stderr.write(f"sonotag listen: {text}\n")
    sys.stderr.flush()


def _choices(args: argparse.Namespace, source: Source) -> list[tuple[str, str]]:
    """Return what is wanted of the sound, as a stream's query."""
    items = [(name, value) for name, value in query_items(args) if name != "channel"]  # the source's business
    if args.no_events:
        items.append(("events", "false"))
    if args.event_options is not None:
        items.append(("events", args.event_options))
    is_unhurried = not source.is_live and not args.pace
    items.append(("on_lag", args.on_lag or ("wait" if is_unhurried else "skip")))
    return items


async def _listen(args: argparse.Namespace, settings: Settings, microphone: Microphone | None) -> int:
    printer = MessagePrinter(JsonLines() if args.json else TextLines())
    if args.url is not None:
        return await _listen_remotely(args, settings, microphone, printer)
    async with open_engine(settings, args.model) as engine, _open_source(args, engine, microphone) as source:
        channel = LocalChannel(engine, source, printer)
        driver = StreamDriver(engine, channel, secrets.token_hex(8))
        _on_first_signal(driver.stop)
        await driver.run(source.query + _choices(args, source))
    if channel.trouble is not None:
        raise channel.trouble
    return _exit_code(driver.close_code, printer)


async def _listen_remotely(
    args: argparse.Namespace, settings: Settings, microphone: Microphone | None, printer: MessagePrinter
) -> int:
    stopped = asyncio.Event()
    async with (
        open_pool(settings) as engine,
        _open_source(args, engine, microphone) as source,
        open_client(args) as client,
    ):
        start = parse_query(source.query + _choices(args, source))
        _on_first_signal(stopped.set)
        troubles: list[ServiceError] = []
        messages = client.stream_frames(until_stopped(source.frames, stopped, troubles), start)
        try:
            async with aclosing(messages):
                async for message in messages:
                    await engine.run(partial(printer.write, message))
        except ServiceError as error:
            if not printer.num_errors:
                raise  # nobody has said it
            return _exit_code(error.close_code, printer)
    if troubles:
        raise troubles[0]
    return _exit_code(1000, printer)


def _exit_code(close_code: int | None, printer: MessagePrinter) -> int:
    if close_code == 4400:
        return exit_codes.USAGE
    return exit_codes.OK if close_code == 1000 and not printer.num_errors else exit_codes.FAILURE


def _on_first_signal(stop: Callable[[], None]) -> None:
    """Let the first signal end the stream in good order, and the second one end the process."""
    loop = asyncio.get_running_loop()

    def obey() -> None:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
        stop()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, obey)
