"""One end of the socket between the supervisor and a worker: both ask and both answer.

A frame is its length in four bytes, then a line of words, then JSON::

    ask 17 take_place\n{"holder":"4f1d..."}
    tell 0 leave_place\n{"holder":"4f1d..."}
    answer 17 -\n{"is_granted":true,...}
    failed 17 -\n{}

Questions are begun in the order they came. What the other end sends is parsed and never executed; a frame that is too long or
makes no sense ends the link, as does the other end's death.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import socket
import struct
from collections.abc import Awaitable
from typing import Final, TypeVar

from service.errors import Unavailable
from service.keeper.desk import Desk
from service.keeper.topics import Message, Nothing, Topic

logger = logging.getLogger(__name__)

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

ASK_SECONDS: Final = 5.0
"""The other end answers from memory: more means that it is stopped, or that its machine is out of breath."""
MAX_FRAME_BYTES: Final = 32 * 1024**2
"""Far above the largest that is sent, a stream on its way to another worker."""
MAX_UNSENT_BYTES: Final = 64 * 1024**2
"""What may wait for an end that does not read."""
_LENGTH: Final = struct.Struct(">I")


class Link:
    """One end.

    Args:
        sock: A connected stream socket; closed with the link.
        desk: Answers what the other end asks.
        peer: Who the other end is, for handlers: a worker's number, 0 for the keeper.
    """

    def __init__(self, sock: socket.socket, desk: Desk, peer: int) -> None:
        self._sock = sock
        self._desk = desk
        self._peer = peer
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._replies: set[asyncio.Task[None]] = set()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._num_asked = 0
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether the other end may still answer."""
        return self._is_open

    async def start(self) -> None:
        """Begin to read, on the running event loop. Once."""
        self._sock.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        self._is_open = True
        self._reading = asyncio.create_task(self._read(reader))

    async def close(self) -> None:
        """End the link; whoever waits for an answer gets none. Twice is once."""
        self._end()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, *self._replies, return_exceptions=True)
        if self._writer is not None:
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._sock.close()

    async def ask(self, topic: Topic[Q, A], question: Q, *, seconds: float = ASK_SECONDS) -> A:
        """Ask the other end and wait for its answer.

        Raises:
            Unavailable: It is gone, does not answer in time, or failed.
        """
        loop = asyncio.get_running_loop()
        self._num_asked += 1
        number = self._num_asked
        future = self._waiting[number] = loop.create_future()
        try:
            self._send("ask", number, topic.name, question)
            async with asyncio.timeout(seconds):
                body = await future
        except TimeoutError:
            raise Unavailable(f"another process of the service has not answered within {seconds:g} s ({topic.name})") from None
        finally:
            self._waiting.pop(number, None)
        return topic.answer.model_validate_json(body)

    def tell(self, topic: Topic[Q, A], question: Q) -> None:
        """Ask and want no answer. Where the other end is gone it has nothing to be told."""
        with contextlib.suppress(Unavailable):
            self._send("tell", 0, topic.name, question)

    def _send(self, kind: str, number: int, name: str, message: Message) -> None:
        if not self._is_open or self._writer is None:
            raise Unavailable(f"another process of the service is gone and cannot be asked ({name})")
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise Unavailable(f"another process of the service does not read and cannot be asked ({name})")
        frame = f"{kind} {number} {name}\n".encode() + message.model_dump_json().encode()
        if len(frame) > MAX_FRAME_BYTES:
            raise Unavailable(f"a message of {len(frame)} bytes is too long for another process of the service ({name})")
        self._writer.write(_LENGTH.pack(len(frame)) + frame)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if length > MAX_FRAME_BYTES:
                    raise ValueError(f"a frame of {length} bytes, at most {MAX_FRAME_BYTES} are read")
                self._receive(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it is gone; who needs to know hears of it from its process
        except ValueError:
            logger.exception("the link to another process of the service broke")
        finally:
            self._end()

    def _receive(self, frame: bytes) -> None:
        """Take one frame.

        Raises:
            ValueError: It makes no sense.
        """
        head, _, body = frame.partition(b"\n")
        kind, digits, name = head.decode("ascii").split(" ")
        number = int(digits)
        if kind in ("answer", "failed"):
            future = self._waiting.get(number)
            if future is None or future.done():
                return  # it came too late
            if kind == "answer":
                future.set_result(body)
            else:
                future.set_exception(Unavailable("another process of the service failed to answer; its log says why"))
        elif kind in ("ask", "tell"):
            self._reply(number if kind == "ask" else None, name, body)
        else:
            raise ValueError(f"there is no frame {kind!r}")

    def _reply(self, number: int | None, name: str, body: bytes) -> None:
        try:
            reply = self._desk.answer(name, self._peer, self._desk.parse(name, body))
        except Exception:
            logger.exception("a question could not be answered: %s", name)
            self._answer(number, None)
            return
        if inspect.isawaitable(reply):
            task = asyncio.create_task(self._reply_later(number, name, reply))
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)
        else:
            self._answer(number, reply)

    async def _reply_later(self, number: int | None, name: str, reply: Awaitable[Message]) -> None:
        answer: Message | None = None
        try:
            answer = await reply
        except Exception:
            logger.exception("a question could not be answered: %s", name)
        self._answer(number, answer)

    def _answer(self, number: int | None, answer: Message | None) -> None:
        if number is not None:
            with contextlib.suppress(Unavailable):
                self._send("failed" if answer is None else "answer", number, "-", Nothing() if answer is None else answer)

    def _end(self) -> None:
        self._is_open = False
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable("another process of the service is gone and has not answered"))
        for task in self._replies:
            task.cancel()
        if self._writer is not None:
            self._writer.close()
