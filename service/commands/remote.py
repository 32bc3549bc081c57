"""`--url`: the same command with the work done by a service that runs somewhere."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from service.client.async_client import check_address
from service.client.sounds import Frame
from service.commands.local_engine import ENGINE_SETTINGS
from service.commands.setting_flags import PREFIX
from service.errors import InvalidParameter, ServiceError
from service.settings_source import flag_of

_HERE_TOO = ("log_format", "log_level")
"""Settings of the engine that a command without one has as well."""


def add_url_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--url`."""
    parser.add_argument(
        "--url", metavar="URL", help="ask the service at this address, http://HOST:PORT, and load no model here"
    )


def check_url_flags(args: argparse.Namespace) -> None:
    """Refuse flags that say how a model is run here where it runs elsewhere.

    Raises:
        InvalidParameter: There is such a flag, or the address is none.
    """
    if args.url is None:
        return
    for name in ENGINE_SETTINGS:
        if name not in _HERE_TOO and getattr(args, PREFIX + name) is not None:
            raise InvalidParameter(f"{flag_of(name)} is the service's own business: leave it out beside --url")
    check_address(args.url)


async def until_stopped(
    frames: AsyncIterator[bytes], stopped: asyncio.Event, troubles: list[ServiceError]
) -> AsyncIterator[Frame]:
    """Yield frames until they end, the event is set, or they can be read no further.

    Args:
        frames: The sound.
        stopped: Set by whoever wants no more.
        troubles: Takes why they can be read no further: what came is scored first.

    Raises:
        OSError: What the frames raised.
    """
    stopping = asyncio.create_task(stopped.wait())
    coming: asyncio.Future[bytes] | None = None
    try:
        while not stopped.is_set():
            coming = asyncio.ensure_future(anext(frames))
            await asyncio.wait([coming, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return
            try:
                yield coming.result()
            except StopAsyncIteration:
                return
            except ServiceError as error:
                troubles.append(error)
                return
    finally:
        stopping.cancel()
        if coming is not None and not coming.done():
            coming.cancel()
            with suppress(asyncio.CancelledError):
                await coming
