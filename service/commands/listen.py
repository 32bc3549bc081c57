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

from service import exit_codes
from service.audio.formats import RawFormat
from service.commands.addresses import is_address
from service.commands.device_list import print_devices
from service.commands.devices import Microphone, find_microphone, list_devices
from service.commands.listen_flags import add_arguments, check, choices, raw_format
from service.commands.listen_local import LocalChannel
from service.commands.listen_network import open_network
from service.commands.listen_output import JsonLines, MessagePrinter, TextLines
from service.commands.listen_sources import Source, open_file, open_pipe
from service.commands.local_engine import ending_at_once, open_engine, open_pool
from service.commands.microphone import open_microphone
from service.commands.portaudio import load_backend
from service.commands.remote import Pulse, open_client, until_stopped
from service.commands.setting_flags import read_settings
from service.commands.sound_files import STANDARD_INPUT, is_pipe
from service.engine import Engine
from service.errors import InvalidParameter, NotFound, ServiceError
from service.settings import Settings
from service.streaming.driver import StreamDriver
from service.streaming.messages import Ready, parse_query

__all__ = ["add_arguments", "run"]

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(args: argparse.Namespace) -> int:
    """Listen until the sound ends.

    Raises:
        StartError: A setting is not allowed, or the model cannot be loaded.
        ServiceError: The file is no sound that can be read.
        BrokenPipeError: Nobody reads the output any more.
    """
    settings = read_settings(args, quiet=True)
    try:
        check(args)
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


def _open_source(
    args: argparse.Namespace, engine: Engine, microphone: Microphone | None
) -> AbstractAsyncContextManager[Source]:
    raw = raw_format(args)
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


async def _listen(args: argparse.Namespace, settings: Settings, microphone: Microphone | None) -> int:
    printer = MessagePrinter(JsonLines() if args.json else TextLines())
    if args.url is not None:
        return await _listen_remotely(args, settings, microphone, printer)
    async with open_engine(settings, args.model) as engine, _open_source(args, engine, microphone) as source:
        channel = LocalChannel(engine, source, printer)
        driver = StreamDriver(engine, channel, secrets.token_hex(8))
        _on_first_signal(driver.stop)
        await driver.run(source.query + choices(args, source))
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
        start = parse_query(source.query + choices(args, source))
        _on_first_signal(stopped.set)
        troubles: list[ServiceError] = []
        pulse = Pulse()
        messages = client.stream_frames(until_stopped(source.frames, stopped, troubles, pulse), start)
        try:
            async with aclosing(messages):
                async for message in messages:
                    if isinstance(message, Ready):
                        pulse.follow(message.limits.idle_seconds)
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
