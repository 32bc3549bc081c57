"""Where the bodies of requests are while they are read."""

from __future__ import annotations

import asyncio
import errno
from contextlib import ExitStack, suppress

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from service.api.uploads import open_clips, until_disconnect
from service.errors import Draining
from service.keeper.client import LocalKeeper
from service.keeper.keeper import Keeper
from service.lifecycle import Lifecycle
from service.settings import Settings
from service.spool import LEAST_MEMORY_BYTES, MAX_IN_MEMORY, MEMORY_BYTES, Spool
from tests.support.runners import WAIT_SECONDS

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
    async with open_clips(form_of(*map(bytes, sizes)), SETTINGS, SPOOL, Lifecycle()) as files:
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
                async with open_clips(request_, SETTINGS, SPOOL, Lifecycle()) as [file]:
                    assert (file.name is None) == is_in_memory
    async with open_clips(request_of(bytes(MEMORY_BYTES)), SETTINGS, SPOOL, Lifecycle()) as [file]:
        assert file.name is None, "the many are gone"


@pytest.mark.parametrize("request_", [request_of(b"clip"), form_of(b"clip")])
async def test_what_fails_while_a_clip_is_used_is_not_said_to_be_the_bodys_fault(request_: Request) -> None:
    with pytest.raises(OSError, match="descriptors") as failure:
        async with open_clips(request_, SETTINGS, SPOOL, Lifecycle()):
            raise OSError(errno.EMFILE, "no descriptors left for a decoder")
    assert failure.value.errno == errno.EMFILE


@pytest.mark.parametrize("is_up_before", [True, False])
async def test_a_body_that_has_not_all_come_is_refused_when_the_drains_time_is_up(is_up_before: bool) -> None:
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    lifecycle.begin_drain()
    if is_up_before:
        lifecycle.cut_short()
    else:
        asyncio.get_running_loop().call_soon(lifecycle.cut_short)
    with pytest.raises(Draining):
        await open_clips(Client().request, SETTINGS, SPOOL, lifecycle).__aenter__()


async def test_a_drain_whose_time_is_up_just_as_a_bodys_is_goes_on() -> None:
    lifecycle = Lifecycle()
    lifecycle.mark_ready()
    lifecycle.begin_drain()
    loop = asyncio.get_running_loop()
    told: list[int] = []

    async def receive() -> Message:
        due = loop.time() + 0.002
        loop.call_at(due, lambda: told.append(lifecycle.cut_short()))
        while loop.time() < due:  # an event loop that is late finds both due at once, the pause's first
            pass
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    settings = SETTINGS.model_copy(update={"receive_timeout_seconds": 0.001})
    request = Request({"type": "http", "method": "POST", "headers": []}, receive)
    with pytest.raises(Draining):
        await open_clips(request, settings, SPOOL, lifecycle).__aenter__()
    assert told == [1]


class Client:
    """One who sends nothing more, and leaves when told to."""

    def __init__(self) -> None:
        self._has_left = asyncio.Event()
        self.request = Request({"type": "http", "method": "POST", "headers": []}, self._receive)

    def leave(self) -> None:
        self._has_left.set()

    async def _receive(self) -> Message:
        await self._has_left.wait()
        return {"type": "http.disconnect"}


class Work:
    """Something that takes until it is finished, and a while to give up."""

    def __init__(self) -> None:
        self.finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.has_given_up = False

    async def do(self) -> str:
        try:
            return await self.finished
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.has_given_up = True
            raise


async def turns(number: int = 5) -> None:
    """Let the event loop go round."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_work_is_given_up_when_its_client_leaves_and_its_end_is_waited_for() -> None:
    client, work = Client(), Work()
    waiting = asyncio.create_task(until_disconnect(client.request, work.do()))
    await turns()
    client.leave()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(waiting, WAIT_SECONDS)
    assert work.has_given_up


async def test_a_client_that_has_left_is_that_whatever_the_work_makes_of_it() -> None:
    async def fail(work: Work) -> None:
        try:
            await work.do()
        finally:
            raise ValueError("in the middle of its end")

    async def go_on(work: Work) -> str:
        with suppress(asyncio.CancelledError):
            await work.do()
        return "heard all the same"

    for stubborn in (fail, go_on):
        client = Client()
        waiting = asyncio.create_task(until_disconnect(client.request, stubborn(Work())))
        await turns()
        client.leave()
        with pytest.raises(ClientDisconnect):
            await asyncio.wait_for(waiting, WAIT_SECONDS)


async def test_work_that_ends_as_its_client_leaves_is_done_or_given_up_and_nothing_else() -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    outcomes = []
    for num_turns in range(8):
        client, work = Client(), Work()
        waiting = asyncio.create_task(until_disconnect(client.request, work.do()))
        await turns()
        client.leave()
        await turns(num_turns)
        if not work.finished.done():
            work.finished.set_result("heard")
        try:
            outcomes.append(await asyncio.wait_for(waiting, WAIT_SECONDS))
        except ClientDisconnect:
            assert work.has_given_up
            outcomes.append("left")
        await turns()
        assert len(asyncio.all_tasks()) == 1, "nobody watches any more"
    assert outcomes == sorted(outcomes)
    assert {outcomes[0], outcomes[-1]} == {"heard", "left"}
    assert not problems


async def test_an_error_of_the_work_is_its_own_also_where_it_is_a_timeout() -> None:
    client, work = Client(), Work()
    work.finished.set_exception(TimeoutError("of its own"))
    with pytest.raises(TimeoutError, match="of its own"):
        await until_disconnect(client.request, work.do())
    await turns()
    assert len(asyncio.all_tasks()) == 1


async def test_who_is_cancelled_while_it_waits_is_cancelled_and_the_work_with_it() -> None:
    client, work = Client(), Work()
    waiting = asyncio.create_task(until_disconnect(client.request, work.do()))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.has_given_up


async def test_who_is_cancelled_is_not_disturbed_at_its_end_by_a_client_that_leaves() -> None:
    client, ends = Client(), asyncio.Event()
    was_disturbed = False

    async def work() -> None:
        nonlocal was_disturbed
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await ends.wait()
            except asyncio.CancelledError:
                was_disturbed = True

    waiting = asyncio.create_task(until_disconnect(client.request, work()))
    await turns()
    waiting.cancel()
    await turns()
    client.leave()
    await turns()
    ends.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not was_disturbed
