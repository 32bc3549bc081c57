"""The messages of one stream that wait to be sent, and what happens to a client that does not read them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from service.streaming.actions import Close
from service.streaming.channel import Channel
from service.streaming.messages import ServerMessage

MAX_OUTBOX: Final = 256
"""Messages that may wait for a client that does not read; then it is not read either."""


class Outbox:
    """Sends in order what is put into it. Its methods belong to the event loop.

    Args:
        channel: The other side; nobody else sends to it or closes it.
        on_room: Called when an outbox that was full is half empty.
        on_stuck: Called once when the other side takes nothing and nothing waits any more; puts the last words and the close.
    """

    def __init__(self, channel: Channel, on_room: Callable[[], None], on_stuck: Callable[[], None]) -> None:
        self._channel = channel
        self._on_room = on_room
        self._on_stuck = on_stuck
        self._waiting: asyncio.Queue[ServerMessage | Close] = asyncio.Queue()
        self._has_close = False

    @property
    def is_full(self) -> bool:
        """Whether so much waits that the client should not be read: what it sends makes more of it."""
        return self._waiting.qsize() > MAX_OUTBOX

    def put(self, item: ServerMessage | Close) -> None:
        """Have a message sent, or the stream closed; never waits. Nothing is put after a close."""
        self._has_close = self._has_close or isinstance(item, Close)
        self._waiting.put_nowait(item)

    async def deliver(self) -> None:
        """Send until the stream is closed.

        Raises:
            OSError: The other side is gone, or takes not even the last words.
        """
        while True:
            item = await self._waiting.get()
            if isinstance(item, Close):
                await self._channel.close(item.code, item.reason)
                return
            try:
                await self._channel.send(item)
            except TimeoutError:
                self._give_up()
                continue
            if self._waiting.qsize() == MAX_OUTBOX // 2:
                self._on_room()

    def _give_up(self) -> None:
        """Let the last words be all that is still sent: what waits would have to wait for ever."""
        if self._has_close:
            raise ConnectionResetError("the client takes nothing, not even the close")
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._on_stuck()
