"""`--url`: the same command with the work done by a service that runs somewhere."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from service.client.async_client import API_KEY_VARIABLE, AsyncClient, check_address
from service.client.sounds import Frame
from service.commands.local_engine import ENGINE_SETTINGS
from service.commands.setting_flags import PREFIX
from service.errors import InvalidParameter, ServiceError
from service.settings_source import flag_of
from service.streaming.messages import KeepAlive

_HERE_TOO = ("log_format", "log_level")
"""Settings of the engine that a command without one has as well."""
FIRST_PULSE_SECONDS = 1.0
"""Until the service has said how long it waits."""


def add_url_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--url`."""
    parser.add_argument(
        "--url", metavar="URL", help="ask the service at this address, http://HOST:PORT, and load no model here"
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help=f"a file with the API key for --url. Default: the variable {API_KEY_VARIABLE}; never a flag, which others can see",
    )


def check_url_flags(args: argparse.Namespace) -> None:
    """Refuse flags that say how a model is run here where it runs elsewhere.

    Raises:
        InvalidParameter: There is such a flag, or the address is none.
    """
    if args.url is None:
        if args.api_key_file is not None:
            raise InvalidParameter("--api-key-file goes with --url: nothing is asked for a key here")
        return
    for name in ENGINE_SETTINGS:
        if name not in _HERE_TOO and getattr(args, PREFIX + name) is not None:
            raise InvalidParameter(f"{flag_of(name)} is the service's own business: leave it out beside --url")
    check_address(args.url)


def open_client(args: argparse.Namespace) -> AsyncClient:
    """Return the client for `--url`, with its key.

    Raises:
        InvalidParameter: The key's file cannot be read, or has no key in it.
    """
    return AsyncClient(args.url, api_key=None if args.api_key_file is None else read_key(args.api_key_file))


def read_key(path: str) -> str:
    """Return the API key that a file holds.

    Raises:
        InvalidParameter: It cannot be read, or is no text of a key.
    """
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text of a key"
        raise InvalidParameter(f"--api-key-file is {path!r}: {reason}") from error


class Pulse:
    """How often a stream without sound says that it is there, so that its service does not take it for forgotten.

    Attributes:
        seconds: How long there may be nothing to send.
    """

    def __init__(self) -> None:
        self.seconds = FIRST_PULSE_SECONDS

    def follow(self, idle_seconds: float) -> None:
        """Keep well within what the service allows."""
        self.seconds = idle_seconds / 3


async def until_stopped(
    frames: AsyncIterator[bytes], stopped: asyncio.Event, troubles: list[ServiceError], pulse: Pulse
) -> AsyncIterator[Frame]:
    """Yield frames until they end, the event is set, or they can be read no further; `keep_alive` while there are none.

    Args:
        frames: The sound.
        stopped: Set by whoever wants no more.
        troubles: Takes why they can be read no further: what came is scored first.
        pulse: How long to wait for a frame before `keep_alive`.

    Raises:
        OSError: What the frames raised.
    """
    stopping = asyncio.create_task(stopped.wait())
    coming: asyncio.Task[bytes] | None = None
    try:
        while not stopped.is_set():
            coming = coming or asyncio.ensure_future(anext(frames))
            await asyncio.wait([coming, stopping], timeout=pulse.seconds, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                try:
                    yield coming.result()
                except StopAsyncIteration:
                    return
                except ServiceError as error:
                    troubles.append(error)
                    return
                coming = None
            elif not stopping.done():
                yield KeepAlive(type="keep_alive")
    finally:
        stopping.cancel()
        if coming is not None and not coming.done():
            coming.cancel()
            with suppress(asyncio.CancelledError):
                await coming
