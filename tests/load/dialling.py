"""Connections whose own end is known, and may be small."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.load.account import PATIENCE_SECONDS, Refused, Wrong
from tests.support.websocket import stream_url

LEAST_BYTES = 4096
"""Of a receive buffer; Linux makes it a little more."""
SEGMENT_BYTES = 536
"""Linux gives the other side's send buffer room for some twenty segments, which on the loopback are of 64 KiB."""


async def dial(url: str, *, receive_bytes: int | None = None) -> socket.socket:
    """Return a connected socket, the caller's. Where its buffer's size is given, little is kept of what is not read."""
    address = urlsplit(url)
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
    except BaseException:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def open_stream(
    url: str, query: Mapping[str, object], sock: socket.socket, **options: object
) -> AsyncIterator[ClientConnection]:
    """Open a live stream over a connected socket.

    Raises:
        Refused: The upgrade was, as it is promised.
        Wrong: It was, otherwise.
    """
    try:
        stream = await connect(stream_url(url, query), sock=sock, open_timeout=PATIENCE_SECONDS, **options)  # type: ignore[arg-type]
    except InvalidStatus as error:
        if error.response.status_code != 503:
            raise Wrong(f"the upgrade was answered with {error.response.status_code}") from error
        if "Retry-After" not in error.response.headers:
            raise Wrong("a refused upgrade without a time") from error
        raise Refused from error
    async with stream:
        yield stream
