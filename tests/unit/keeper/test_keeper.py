from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from service.access.keys import Limits
from service.errors import QuotaExceeded, StartError, Unavailable
from service.keeper.client import KeeperClient, LinkedKeeper, LocalKeeper
from service.keeper.desk import Desk
from service.keeper.keeper import Keeper
from service.keeper.link import MAX_FRAME_BYTES, Link
from service.keeper.parked import ParkedStreams
from service.keeper.places import StreamPlaces
from service.keeper.reloads import Reloads
from service.keeper.topics import (
    COUNT_PLACES,
    DESCRIBE_STREAM,
    DISCARD_MODELS,
    FETCH_STREAM,
    FIND_STREAM,
    GIVE_STREAM,
    HELLO,
    HOLD_ROOM,
    LEAVE_PLACE,
    LEAVE_ROOM,
    PREPARE_MODELS,
    RELOAD_MODELS,
    SWAP_MODELS,
    TAKE_PLACE,
    Hello,
    HoldRoom,
    LeavePlace,
    LeaveRoom,
    Message,
    Nothing,
    Prepared,
    Reloaded,
    Room,
    StreamDemand,
    StreamState,
    StreamToken,
    Swapped,
    TakePlace,
    Topic,
    Welcome,
)
from service.kept_quotas import KeptQuotas
from service.settings import Settings

SETTINGS = Settings(_env_file=None, max_streams=2)  # type: ignore[call-arg]


class Sound(Message):
    samples: bytes


ECHO = Topic("echo", Sound, Sound)
STUCK = Topic("stuck", Nothing, Nothing)
BROKEN = Topic("broken", Nothing, Nothing)


async def wait_for_ever(_worker: int, _question: Nothing) -> Nothing:
    await asyncio.Event().wait()
    return Nothing()


def break_down(_worker: int, _question: Message) -> Nothing:
    raise ZeroDivisionError


def make_keeper() -> Keeper:
    keeper = Keeper(SETTINGS)
    keeper.desk.add(ECHO, lambda _worker, sound: sound)
    keeper.desk.add(STUCK, wait_for_ever)
    keeper.desk.add(BROKEN, break_down)
    return keeper


@asynccontextmanager
async def linked(keeper: Keeper, number: int) -> AsyncIterator[tuple[LinkedKeeper, Link]]:
    """A worker's end and the supervisor's, on a real socketpair."""
    ours, theirs = socket.socketpair()
    link = Link(ours, keeper.desk, number)
    client = LinkedKeeper(theirs)
    await link.start()
    keeper.join(number, link)
    await client.start()
    try:
        yield client, link
    finally:
        keeper.leave(number)
        await client.close()
        await link.close()


@asynccontextmanager
async def local(keeper: Keeper) -> AsyncIterator[LocalKeeper]:
    client = LocalKeeper(keeper)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def either(kind: str, keeper: Keeper) -> AsyncIterator[KeeperClient]:
    if kind == "local":
        async with local(keeper) as client:
            yield client
    else:
        async with linked(keeper, 1) as (client, _):
            yield client


BOTH = pytest.mark.parametrize("kind", ["local", "linked"])


@BOTH
async def test_places_are_granted_up_to_the_limit_and_given_back(kind: str) -> None:
    async with either(kind, make_keeper()) as client:
        assert (await client.ask(TAKE_PLACE, TakePlace(holder="a"))).is_granted
        assert (await client.ask(TAKE_PLACE, TakePlace(holder="a"))).taken == 1, "asked twice it is one place"
        assert (await client.ask(TAKE_PLACE, TakePlace(holder="b"))).is_granted
        refusal = await client.ask(TAKE_PLACE, TakePlace(holder="c"))
        assert (refusal.is_granted, refusal.taken, refusal.limit) == (False, 2, 2)
        client.tell(LEAVE_PLACE, LeavePlace(holder="a"))
        client.tell(LEAVE_PLACE, LeavePlace(holder="never held"))
        assert (await client.ask(COUNT_PLACES, Nothing())).taken == 1, "what is told is done before what is asked next"


@BOTH
async def test_room_on_disk_is_that_of_all_workers_and_a_dead_one_leaves_it(kind: str) -> None:
    keeper = make_keeper()
    all_of_it = keeper.room.limit_bytes
    async with either(kind, keeper) as client:
        asked = HoldRoom(holder="a", num_bytes=2 * all_of_it, needed_bytes=1)
        assert await client.ask(HOLD_ROOM, asked) == Room(num_bytes=all_of_it, taken_bytes=all_of_it, limit_bytes=all_of_it)
        async with linked(keeper, 2) as (other, _):
            assert (await other.ask(HOLD_ROOM, asked)).num_bytes is None
            client.tell(LEAVE_ROOM, LeaveRoom(holder="a"))
            client.tell(LEAVE_ROOM, LeaveRoom(holder="never held"))
            assert (await client.ask(COUNT_PLACES, Nothing())).taken == 0  # so that it is done
            assert (await other.ask(HOLD_ROOM, asked)).num_bytes == all_of_it
        assert keeper.room.taken_bytes == 0


@BOTH
async def test_bytes_come_back_as_they_went(kind: str) -> None:
    async with either(kind, make_keeper()) as client:
        sound = Sound(samples=bytes(range(256)) * 4000)
        assert await client.ask(ECHO, sound) == sound


@BOTH
async def test_an_answer_that_does_not_come_in_time_is_an_error(kind: str) -> None:
    async with either(kind, make_keeper()) as client:
        with pytest.raises(Unavailable, match=r"0\.01 s \(stuck\)"):
            await client.ask(STUCK, Nothing(), seconds=0.01)
        client.tell(STUCK, Nothing())
        assert (await client.ask(COUNT_PLACES, Nothing())).taken == 0, "one that hangs holds up no other"


@BOTH
async def test_a_handler_that_breaks_fails_its_question_and_no_other(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with either(kind, make_keeper()) as client:
        with pytest.raises(Unavailable, match="its log says why"):
            await client.ask(BROKEN, Nothing())
        client.tell(BROKEN, Nothing())
        assert (await client.ask(COUNT_PLACES, Nothing())).taken == 0
    assert caplog.text.count("could not be answered: broken") == 2


@BOTH
async def test_the_keeper_asks_its_workers_too(kind: str) -> None:
    keeper = make_keeper()
    async with either(kind, keeper) as client:
        client.desk.add(Topic("pid", Nothing, Sound), lambda asker, _: Sound(samples=bytes([asker])))
        answers = await keeper.ask_all(Topic("pid", Nothing, Sound), Nothing())
        assert list(answers.values()) == [Sound(samples=b"\0")]
    with pytest.raises(Unavailable, match="is gone"):
        await keeper.ask_worker(next(iter(answers)), ECHO, Sound(samples=b""))


async def test_a_worker_that_hangs_is_an_error_among_the_answers() -> None:
    keeper = make_keeper()
    async with linked(keeper, 1) as (good, _), linked(keeper, 2) as (bad, _):
        good.desk.add(STUCK, lambda _asker, _question: Nothing())
        bad.desk.add(STUCK, wait_for_ever)
        answers = await keeper.ask_all(STUCK, Nothing(), seconds=0.05)
        assert answers[1] == Nothing()
        assert isinstance(answers[2], Unavailable)


async def test_the_places_of_a_dead_worker_are_free_again() -> None:
    keeper = make_keeper()
    async with linked(keeper, 1) as (first, _):
        async with linked(keeper, 2) as (second, _):
            for client, holder in ((first, "a"), (second, "b")):
                assert (await client.ask(TAKE_PLACE, TakePlace(holder=holder))).is_granted
        assert (await first.ask(COUNT_PLACES, Nothing())).taken == 1


@BOTH
async def test_what_a_key_may_is_decided_by_one_for_all(kind: str) -> None:
    async with either(kind, Keeper(SETTINGS, clock=lambda: 7.0)) as client:
        quotas = KeptQuotas(client)
        limits = Limits(max_streams=1, requests_per_minute=2, audio_seconds_per_day=30)
        await quotas.open_stream("key", limits, "a")
        with pytest.raises(QuotaExceeded, match="has 1 of at most 1 streams open"):
            await quotas.open_stream("key", limits, "b")
        await quotas.open_stream("other", limits, "b")
        await quotas.close_stream("key", "a")
        await quotas.open_stream("key", limits, "b")
        for _ in range(2):
            await quotas.admit_request("key", limits)
        with pytest.raises(QuotaExceeded) as refused:
            await quotas.admit_request("key", limits)
        assert refused.value.retry_after_s == 60
        assert [await quotas.reserve_audio("key", limits, 20, 1) for _ in range(2)] == [20, 10]
        await quotas.return_audio("key", 4)
        assert await quotas.reserve_audio("key", limits, 20, 1) == 4
        with pytest.raises(QuotaExceeded, match=r"0\.0 s of sound left of 30 s"):
            await quotas.reserve_audio("key", limits, 20, 1)


async def test_workers_share_a_key_and_the_streams_of_a_dead_one_are_forgotten() -> None:
    limits = Limits(max_streams=2)
    keeper = make_keeper()
    async with linked(keeper, 1) as (first, _):
        async with linked(keeper, 2) as (second, _):
            await KeptQuotas(first).open_stream("key", limits, "a")
            await KeptQuotas(second).open_stream("key", limits, "a")
            for client in (first, second):
                with pytest.raises(QuotaExceeded):
                    await KeptQuotas(client).open_stream("key", limits, "b")
        await KeptQuotas(first).open_stream("key", limits, "b")
        with pytest.raises(QuotaExceeded):
            await KeptQuotas(first).open_stream("key", limits, "c")


async def test_under_a_limit_nobody_is_let_in_without_the_supervisor() -> None:
    async with linked(make_keeper(), 1) as (client, link):
        await link.close()
        quotas = KeptQuotas(client)
        with pytest.raises(Unavailable):
            await quotas.admit_request("key", Limits(requests_per_minute=1))
        await quotas.admit_request("key", Limits())
        await quotas.open_stream("key", Limits(), "a")
        assert await quotas.reserve_audio("key", Limits(), 5, 1) == 5
        await quotas.close_stream("key", "a")


@pytest.mark.parametrize(
    ("reasons", "last"), [((None, None), "swap"), ((None, "it is broken"), "discard"), (("it is broken", None), "discard")]
)
async def test_all_workers_change_their_models_or_none_does(reasons: tuple[str | None, str | None], last: str) -> None:
    keeper = make_keeper()
    done: list[list[str]] = [[], []]

    def note(index: int, what: str) -> Nothing:
        done[index].append(what)
        return Nothing()

    def swap(index: int) -> Swapped:
        note(index, "swap")
        return Swapped()

    async with linked(keeper, 1) as (first, _), linked(keeper, 2) as (second, _):
        for index, client in enumerate((first, second)):
            client.desk.add(PREPARE_MODELS, lambda _asker, _question, reason=reasons[index]: Prepared(reason=reason))
            client.desk.add(SWAP_MODELS, lambda _asker, _question, index=index: swap(index))
            client.desk.add(DISCARD_MODELS, lambda _asker, _question, index=index: note(index, "discard"))
        answer = await first.ask(RELOAD_MODELS, Nothing())
    assert done == [[last], [last]]
    assert answer.reason == (reasons[0] or reasons[1])


@dataclass
class ChangingWorker:
    """Prepares new models; says on which ask it confirms the change, and whether it can change at all."""

    client: LinkedKeeper
    confirms_on: int | None = 1
    reason: str | None = None
    num_asked: int = 0

    def __post_init__(self) -> None:
        self.client.desk.add(PREPARE_MODELS, lambda _asker, _question: Prepared())
        self.client.desk.add(SWAP_MODELS, lambda _asker, _question: self.swap())

    async def swap(self) -> Swapped:
        self.num_asked += 1
        if self.num_asked != self.confirms_on:
            await asyncio.Event().wait()
        return Swapped(reason=self.reason)


@asynccontextmanager
async def changing(keeper: Keeper, number: int, **how: Any) -> AsyncIterator[ChangingWorker]:
    async with linked(keeper, number) as (client, _):
        yield ChangingWorker(client, **how)


async def test_a_worker_that_does_not_confirm_its_new_models_is_replaced_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    keeper = make_keeper()
    replaced: list[int] = []
    reloads = Reloads(Desk(), keeper.ask_all, replaced.append, swap_seconds=0.05)
    async with (
        changing(keeper, 1) as prompt,
        changing(keeper, 2, confirms_on=None) as silent,
        changing(keeper, 3, confirms_on=2) as late,
        changing(keeper, 4, reason="no room") as failed,
    ):
        assert await reloads.reload() == Reloaded(num_replaced=2)
        assert [worker.num_asked for worker in (prompt, silent, late, failed)] == [1, 2, 2, 1]
    assert replaced == [2, 4]
    assert caplog.text.count("a worker did not change its models and is replaced") == 2


async def test_without_a_supervisor_a_change_that_fails_is_the_reason_that_is_answered() -> None:
    keeper = make_keeper()
    async with changing(keeper, 1, reason="no room"):
        assert await keeper.reloads.reload() == Reloaded(reason="no room")


async def test_a_worker_that_does_not_answer_may_still_have_its_stream_and_a_dead_one_has_not() -> None:
    keeper = make_keeper()
    question = StreamToken(token="2.abc", owner="")
    async with linked(keeper, 1) as (asker, _):
        async with linked(keeper, 2) as (holder, _):
            for topic in (DESCRIBE_STREAM, GIVE_STREAM):
                holder.desk.add(Topic(topic.name, StreamToken, Nothing), break_down)
            assert await asker.ask(FIND_STREAM, question) == StreamDemand(is_late=True)
            assert await asker.ask(FETCH_STREAM, question) == StreamState(state=None, is_late=True)
        assert await asker.ask(FIND_STREAM, question) == StreamDemand()
        assert await asker.ask(FETCH_STREAM, question) == StreamState(state=None)


async def test_whoever_waits_is_told_when_the_supervisor_dies() -> None:
    async with linked(make_keeper(), 1) as (client, link):
        asking = asyncio.create_task(client.ask(STUCK, Nothing()))
        await client.ask(COUNT_PLACES, Nothing())
        await link.close()
        with pytest.raises(Unavailable, match="is gone"):
            await asking
        with pytest.raises(Unavailable, match="is gone"):
            await client.ask(COUNT_PLACES, Nothing())
        client.tell(LEAVE_PLACE, LeavePlace(holder="a"))


async def test_a_supervisor_of_another_version_is_refused() -> None:
    ours, theirs = socket.socketpair()
    keeper = Keeper(SETTINGS)
    other = make_keeper().desk.__class__()
    other.add(HELLO, lambda _worker, _hello: Welcome(version=99, worker=1))
    link, client = Link(ours, other, 1), LinkedKeeper(theirs)
    await link.start()
    with pytest.raises(StartError, match="speaks version 99"):
        await client.start()
    await client.close()
    await link.close()
    assert await keeper.desk.ask(HELLO, 0, Hello(version=1)) != Welcome(version=99, worker=0)


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        struct.pack(">I", 4) + b"what",
        struct.pack(">I", 9) + b"shout 1 a",
        struct.pack(">I", 7) + b"ask x a",
        struct.pack(">I", 4) + b"\xff 1 a",
    ],
)
async def test_what_is_no_frame_ends_the_link(frame: bytes, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours, make_keeper().desk, 1)
    await link.start()
    with theirs:
        theirs.sendall(frame)
        theirs.settimeout(30)
        assert await asyncio.to_thread(theirs.recv, 1) == b""
    assert not link.is_open
    assert "the link to another process of the service broke" in caplog.text
    await link.close()


async def test_what_nobody_answers_and_what_is_no_question_fail_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with linked(make_keeper(), 1) as (client, _):
        for name in ("nothing_such", "take_place"):
            with pytest.raises(Unavailable, match="its log says why"):
                await client.ask(Topic(name, Nothing, Nothing), Nothing())
        assert (await client.ask(COUNT_PLACES, Nothing())).taken == 0
    assert "KeyError" in caplog.text
    assert "ValidationError" in caplog.text


def test_a_topic_has_one_handler() -> None:
    keeper = make_keeper()
    with pytest.raises(ValueError, match="echo has a handler"):
        keeper.desk.add(ECHO, lambda _worker, sound: sound)


def test_places_never_exceed_the_limit_whoever_takes_and_leaves() -> None:
    places = StreamPlaces(3)
    for turn in range(200):
        places.take(turn % 4, str(turn % 7))
        assert places.taken <= 3
        places.leave(turn % 3, str(turn % 5))
        if turn % 11 == 0:
            places.forget(turn % 4)
    for worker in range(4):
        places.forget(worker)
    assert places.taken == 0


def test_a_stream_is_where_it_began_or_where_it_was_fetched_to_until_that_is_settled() -> None:
    parked = ParkedStreams()
    assert [parked.worker_of(token) for token in ("1.a", "17.b", "x", "", ".c", "\u0663.d")] == [1, 17, None, None, None, None]
    parked.move("1.a", 2, limit=2)
    parked.settle("1.a", 3)  # a worker that did not fetch it
    assert parked.worker_of("1.a") == 2
    parked.settle("1.a", 2)
    assert parked.worker_of("1.a") == 1
    for worker, token in enumerate(("5.a", "5.b", "5.c")):
        parked.move(token, worker, limit=2)
    assert [parked.worker_of(token) for token in ("5.a", "5.b", "5.c")] == [5, 1, 2]
    parked.forget(2)
    assert parked.worker_of("5.c") == 5


def test_of_kept_streams_the_oldest_go_first_and_a_dead_workers_are_gone() -> None:
    parked = ParkedStreams()
    assert parked.add(1, "a", 2) == []
    assert parked.add(2, "b", 2) == []
    assert parked.add(2, "c", 2) == [(1, "a")]
    parked.remove("b")
    parked.remove("never kept")
    assert parked.add(1, "d", 2) == []
    parked.forget(2)
    assert len(parked) == 1
    assert parked.add(3, "e", 0) == [(1, "d"), (3, "e")]
