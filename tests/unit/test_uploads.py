"""Where the bodies of requests are while they are read."""

from __future__ import annotations

import errno
from contextlib import ExitStack

import pytest
from starlette.requests import Request
from starlette.types import Message

from service.api.uploads import open_clips
from service.keeper.client import LocalKeeper
from service.keeper.keeper import Keeper
from service.settings import Settings
from service.spool import LEAST_MEMORY_BYTES, MAX_IN_MEMORY, MEMORY_BYTES, Spool

CHUNK = 65_536
SETTINGS = Settings(_env_file=None)
SPOOL = Spool(LocalKeeper(Keeper(SETTINGS)))


def request_of(body: bytes, content_type: str = "application/octet-stream") -> Request:
    chunks = [body[start : start + CHUNK] for start in range(0, len(body), CHUNK)]

    async def receive() -> Message:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    return Request({"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}, receive)


def form_of(*files: bytes) -> Request:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = b"".join(head + file + b"\r\n" for file in files) + b"--x--\r\n"
    return request_of(body, "multipart/form-data; boundary=x")


async def test_the_clips_of_one_body_are_in_memory_no_further_than_one_would_be() -> None:
    sizes = [MEMORY_BYTES // 2, MEMORY_BYTES // 4, MEMORY_BYTES // 2, MEMORY_BYTES // 2]
    async with open_clips(form_of(*map(bytes, sizes)), SETTINGS, SPOOL) as files:
        in_memory = [size for size, file in zip(sizes, files, strict=True) if file.name is None]
        assert 0 < sum(in_memory) <= MEMORY_BYTES
        assert [len(file.read()) for file in files] == sizes
    assert all(file.closed for file in files)


async def test_while_there_are_many_bodies_others_are_on_disk() -> None:
    with ExitStack() as many:
        for _ in range(MAX_IN_MEMORY):
            many.enter_context(SPOOL.room(None))
        for size, is_in_memory in ((LEAST_MEMORY_BYTES, True), (LEAST_MEMORY_BYTES + 1, False)):
            for request_ in (request_of(bytes(size)), form_of(bytes(size))):
                async with open_clips(request_, SETTINGS, SPOOL) as [file]:
                    assert (file.name is None) == is_in_memory
    async with open_clips(request_of(bytes(MEMORY_BYTES)), SETTINGS, SPOOL) as [file]:
        assert file.name is None, "the many are gone"


@pytest.mark.parametrize("request_", [request_of(b"clip"), form_of(b"clip")])
async def test_what_fails_while_a_clip_is_used_is_not_said_to_be_the_bodys_fault(request_: Request) -> None:
    with pytest.raises(OSError, match="descriptors") as failure:
        async with open_clips(request_, SETTINGS, SPOOL):
            raise OSError(errno.EMFILE, "no descriptors left for a decoder")
    assert failure.value.errno == errno.EMFILE
