"""One live stream from the client's side: frames go up in one task while messages come down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from service.answers import ErrorBody
from service.client.connection import parse_server_message
from service.client.errors import Disconnected, error_of
from service.client.resumption import Connect, resume_stream
from service.client.retry import Retry
from service.client.sent import SentFrames
from service.client.sounds import PIECE_BYTES, Frame
from service.errors import Draining, ServiceError
from service.streaming.messages import ClientMessage, ErrorMessage, Ready, ServerMessage, Start, Stop


async def run_stream(
    connect: Connect, retry: Retry, start: Start, frames: AsyncIterator[Frame]
) -> AsyncGenerator[ServerMessage, None]:
    """Send frames and yield what the server says to them, to the end.

    Where the caller does not take messages nothing is read, the server then reads no more either, and the next frame is
    asked for only when the network has taken the last one: nothing piles up. Where a connection breaks a stream of raw sound
    goes on over another one, if the server still has it: a second `Ready` says so, and nothing is lost.

    Args:
        connect: Opens a connection, or fails at once.
        retry: When that is tried again.
        start: The configuration.
        frames: Asked for in a task of its own.

    Raises:
        ServiceError: How the server ended the stream, where that was not in good order. Whatever it said before, its
            `error` message included, has been yielded.
        Exception: What the frames raised.
    """
    talk = _Talk(start, frames)
    socket, ready = await retry.run(lambda: connect({})), None
    try:
        while True:
            sender = asyncio.create_task(talk.send(socket))
            try:
                if ready is not None:
                    yield ready
                async for text in socket:
                    if (message := talk.take(text)) is not None:
                        yield message
            except ConnectionClosed:
                pass  # the code says why
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
                await socket.close()
            if talk.failure is not None:
                raise talk.failure
            error = _ending(socket, talk.fatal)
            if error is None:
                return
            if not isinstance(error, Disconnected) or not talk.is_resumable:
                raise error
            socket, ready = await resume_stream(connect, retry, talk.where_it_broke(), error)
            talk.go_on(ready)
    finally:
        await talk.close()


class _Talk:
    """What both sides have said of one stream, over however many connections."""

    def __init__(self, start: Start, frames: AsyncIterator[Frame]) -> None:
        self._start = start
        self._frames = frames
        self._next: asyncio.Future[Frame] | None = None
        self._sent = SentFrames.for_start(start)
        self._repeated: Iterator[Frame] = iter(())
        self._has_begun = False
        self._token: str | None = None
        self._last_seq = 0
        self.fatal: ErrorMessage | None = None
        self.failure: Exception | None = None

    @property
    def is_resumable(self) -> bool:
        """Whether another connection can go on where one broke."""
        return self._token is not None and self._sent is not None

    def take(self, text: str | bytes) -> ServerMessage | None:
        """Parse and note what the server says; None for what this version does not know."""
        message = parse_server_message(text)
        if isinstance(message, Ready):
            self._token = message.resume_token
        if isinstance(message, ErrorMessage) and message.fatal:
            self.fatal = message
        if message is not None and message.seq is not None:
            self._last_seq = message.seq
        return message

    def where_it_broke(self) -> dict[str, str]:
        """Return what the query says to a server that is to go on with it, which then knows at the upgrade that it has it."""
        assert self._token is not None
        assert self._sent is not None
        return {
            "resume_token": self._token,
            "last_seq": str(self._last_seq),
            "resume_from": str(self._sent.earliest_seconds),
        }

    def go_on(self, ready: Ready) -> None:
        """Another connection goes on with it: send again what the server wants again."""
        assert self._sent is not None
        self._token = ready.resume_token
        self._repeated = self._sent.since(ready.resumed_at or 0.0)

    async def send(self, socket: ClientConnection) -> None:
        """Send what is to be sent over one connection, until it breaks or all is said."""
        try:
            if not self._has_begun:
                self._has_begun = True
                await socket.send(self._start.model_dump_json(exclude_none=True))
            for frame in self._repeated:
                await _send_frame(socket, frame)
            while (next_frame := await self._take_frame()) is not None:
                await _send_frame(socket, next_frame)
            await socket.send(Stop(type="stop").model_dump_json())
        except ConnectionClosed:
            return  # whoever reads the messages learns why
        except Exception as error:  # noqa: BLE001  # whatever the caller's source raises, the caller gets
            self.failure = error
            await socket.close()

    async def close(self) -> None:
        """Leave the frames alone."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)

    async def _take_frame(self) -> Frame | None:
        """Return the next frame, None at the end. A frame that is being waited for outlives the connection it was meant for."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._frames))
        try:
            frame = await asyncio.shield(self._next)
        except StopAsyncIteration:
            return None
        self._next = None
        if self._sent is not None:
            self._sent.add(frame)
        return frame


async def _send_frame(socket: ClientConnection, frame: Frame) -> None:
    if isinstance(frame, ClientMessage):
        await socket.send(frame.model_dump_json(exclude_none=True))
        return
    for first in range(0, len(frame), PIECE_BYTES):
        await socket.send(frame[first : first + PIECE_BYTES])


def _ending(socket: ClientConnection, fatal: ErrorMessage | None) -> ServiceError | None:
    if fatal is not None:
        return error_of(ErrorBody.model_validate(fatal.model_dump(include=set(ErrorBody.model_fields))))
    code, reason = socket.close_code, socket.close_reason
    if code == 1000:
        return None
    if code == 1001:
        return Draining("the server went away; what was sent and not answered is lost")
    return Disconnected(f"the stream broke off with {code}" + (f": {reason}" if reason else ""))
