"""Clips out of request bodies: raw or multipart, counted while they arrive, spooled to a file that has no name."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import IO, TypeVar, cast

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.errors import BodyTooLarge, InvalidParameter, NoRoom, RequestTimeout
from service.lifecycle import Lifecycle
from service.settings import Settings
from service.spool import RETRY_SECONDS, BodyRoom, Spool
from service.validation import MAX_SHOWN

T = TypeVar("T")

MIN_BYTES_PER_SECOND = 1000
"""Of a body on the whole, after its first pause: a twentieth of the slowest line that anybody calls broadband."""
MAX_FILES = 256
FILE_FIELD = "file"
# ENOENT: Python's way to say that no temporary folder can be written to.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOENT}


@contextmanager
def _keeping_bodies() -> Iterator[None]:
    """Translate what goes wrong with the temporary files of bodies. Closing one that did not fit fails once more."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise NoRoom(
            f"the body is too long for memory and cannot be kept on disk now: {os.strerror(error.errno)} (TMPDIR)",
            retry_after_s=RETRY_SECONDS,
        ) from error


def _too_large(got: str, limit: int, setting: str) -> BodyTooLarge:
    return BodyTooLarge(f"the body has {got} bytes, at most {limit} are read{setting}")


def _declared_bytes(request: Request) -> int | None:
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else None


def limit_body(request: Request, settings: Settings, lifecycle: Lifecycle, *, max_bytes: int | None = None) -> Request:
    """Return the request with a body that is held to limits of size and time.

    Reading it raises `BodyTooLarge` once too much has come, `RequestTimeout` where too little does, and `Unavailable` once a
    drain's time is up: who sends a byte a second must not hold up the end.

    Args:
        request: The request.
        settings: What the body is held to.
        lifecycle: Knows when a drain's time is up.
        max_bytes: Of the whole body, in place of what the settings say.

    Raises:
        BodyTooLarge: The declared length is above the limit already.
    """
    max_pause = settings.receive_timeout_seconds
    setting = ""
    if max_bytes is None:  # what is longer than all may be together would be told to come again, for ever
        max_bytes, name = min(
            (settings.max_body_bytes, "SONOTAG_MAX_BODY_BYTES"), (settings.max_spooled_bodies, "SONOTAG_MAX_SPOOLED_BODIES")
        )
        setting = f" ({name})"
    declared = _declared_bytes(request)
    if declared is not None and declared > max_bytes:
        raise _too_large(str(declared), max_bytes, setting)
    received = 0
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def receive() -> Message:
        nonlocal received
        waited = loop.time() - started
        try:
            async with asyncio.timeout(min(max_pause, max_pause + received / MIN_BYTES_PER_SECOND - waited)) as wait:
                with lifecycle.interruptible(lambda: _run_out(wait)):
                    message = await request.receive()
        except TimeoutError:
            lifecycle.check_time()
            raise RequestTimeout(
                f"after {received} bytes the body paused for {max_pause:g} s (SONOTAG_RECEIVE_TIMEOUT_SECONDS), or it comes "
                f"with less than {MIN_BYTES_PER_SECOND} bytes a second"
            ) from None
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(f"more than {max_bytes}", max_bytes, setting)
        return message

    return Request(request.scope, receive)


@asynccontextmanager
async def open_clips(
    request: Request, settings: Settings, spool: Spool, lifecycle: Lifecycle, *, max_files: int = MAX_FILES
) -> AsyncIterator[list[IO[bytes]]]:
    """Yield the clips of a request as seekable files at their start: its `file` parts, or its whole body.

    Args:
        request: The request; its body is read here.
        settings: What the body is held to.
        spool: Gives it its room in memory and on disk.
        lifecycle: Knows when a drain's time is up.
        max_files: How many parts it may have.

    Raises:
        BodyTooLarge: The body is larger.
        RequestTimeout: It comes too slowly.
        Unavailable: It has not all come when a drain's time is up.
        InvalidParameter: A multipart body has no `file`, too many, or other fields.
        NoRoom: It is too long for memory and does not fit on disk.
    """
    limited = limit_body(request, settings, lifecycle)
    declared = _declared_bytes(request)
    is_form = request.headers.get("content-type", "").split(";")[0].strip().lower() == "multipart/form-data"
    with spool.room(declared) as room:
        await room.check()
        kept = _keep_within(limited, room)
        with _keeping_bodies():  # and no longer: what fails while the clips are read is something else
            files = await (_read_form(kept, max_files, room.memory_bytes) if is_form else _read_body(kept, room.memory_bytes))
        try:
            yield files
        finally:
            for file in files:
                file.close()


def _keep_within(request: Request, room: BodyRoom) -> Request:
    """Return the request with a body that has its room before it is given out."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        await room.cover(received)
        return message

    return Request(request.scope, receive)


async def _read_body(request: Request, memory_bytes: int) -> list[IO[bytes]]:
    with ExitStack() as stack:
        body = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=memory_bytes))
        async for chunk in request.stream():
            body.write(chunk)
        body.seek(0)
        stack.pop_all()
    return [cast(IO[bytes], body)]


async def _read_form(request: Request, max_files: int, memory_bytes: int) -> list[IO[bytes]]:
    parser = _ClipParser(request, max_files, memory_bytes)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidParameter(f"the multipart body cannot be read: {error.message}", param=FILE_FIELD) from error
    files = [cast(IO[bytes], value.file) for value in form.getlist(FILE_FIELD) if isinstance(value, UploadFile)]
    if not files:
        raise InvalidParameter("the multipart body has no part called file: with curl, -F file=@NAME", param=FILE_FIELD)
    return files


class _ClipParser(MultiPartParser):
    """Starlette's, which refuses a part that is no clip, or one too many, as soon as its head is there, and keeps no more in
    memory of all clips together than of one."""

    def __init__(self, request: Request, max_files: int, memory_bytes: int) -> None:
        super().__init__(request.headers, request.stream(), max_files=math.inf)
        self._max_files = max_files
        self._memory_bytes = memory_bytes

    def on_headers_finished(self) -> None:
        """See Starlette: a part's head is there."""
        kept = sum(value.size or 0 for _, value in self.items if isinstance(value, UploadFile))
        self.spool_max_size = max(1, self._memory_bytes - kept)  # 0 would mean any size
        super().on_headers_finished()
        name = self._current_part.field_name
        if name != FILE_FIELD:
            raise InvalidParameter(
                f"there is no form field {name[:MAX_SHOWN]!r}, only {FILE_FIELD}: parameters go into the query",
                param=name[:MAX_SHOWN],
            )
        if self._current_part.file is None:
            raise InvalidParameter("the part file must be a file: with curl, -F file=@NAME", param=FILE_FIELD)
        if self._current_files > self._max_files:
            where = "one here, several at /v1/classify/batch" if self._max_files == 1 else f"{self._max_files} at most"
            raise InvalidParameter(f"the body has too many parts called file: {where}", param=FILE_FIELD)


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Await work whose request body has been read; cancel it, once, when the client leaves.

    Raises:
        ClientDisconnect: The client left, whatever the work made of it.
    """
    task = asyncio.current_task()
    assert task is not None
    stay = asyncio.timeout(None)
    num_cancelled = task.cancelling()

    def leave(_: asyncio.Task[None]) -> None:
        if task.cancelling() == num_cancelled:  # else it ends already, and must not be disturbed at that
            _run_out(stay)

    watch = asyncio.create_task(_disconnected(request))
    watch.add_done_callback(leave)
    try:
        async with stay:
            result = await work
    except Exception as error:
        if stay.expired():
            raise ClientDisconnect from error
        raise
    finally:
        watch.cancel()
    if stay.expired():
        raise ClientDisconnect
    return result


def _run_out(limit: asyncio.Timeout) -> None:
    """Have a time limit run out now, if it has not and what it is for still goes on."""
    with suppress(RuntimeError):
        limit.reschedule(asyncio.get_running_loop().time())


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
