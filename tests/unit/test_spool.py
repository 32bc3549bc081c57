"""The room that bodies have on disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import NoRoom
from service.keeper.client import LocalKeeper
from service.keeper.disk_room import DiskRoom
from service.keeper.keeper import Keeper
from service.settings import Settings
from service.spool import BLOCK_BYTES, Spool

LIMIT = 3 * BLOCK_BYTES


def make_spool() -> tuple[Spool, Keeper]:
    keeper = Keeper(Settings(_env_file=None, max_spooled_bodies=LIMIT))
    return Spool(LocalKeeper(keeper), memory_bytes=0), keeper


async def test_a_body_has_room_for_what_has_come_a_block_at_a_time_and_gives_it_back() -> None:
    spool, keeper = make_spool()
    with spool.room(None) as room:
        await room.cover(1)
        assert keeper.room.taken_bytes == BLOCK_BYTES
        await room.cover(BLOCK_BYTES)
        assert keeper.room.taken_bytes == BLOCK_BYTES
        await room.cover(BLOCK_BYTES + 1)
        assert keeper.room.taken_bytes == 2 * BLOCK_BYTES
    assert keeper.room.taken_bytes == 0


async def test_no_more_is_set_aside_than_a_body_says_that_it_has() -> None:
    spool, keeper = make_spool()
    with spool.room(1000) as room:
        await room.cover(1)
        assert keeper.room.taken_bytes == 1000


async def test_a_body_that_is_said_to_be_longer_than_what_is_left_is_refused_and_takes_nothing() -> None:
    spool, keeper = make_spool()
    with spool.room(LIMIT) as first, spool.room(LIMIT) as second:
        await first.check()
        await second.check()
        assert keeper.room.taken_bytes == 0, "neither has sent anything"
        await first.cover(BLOCK_BYTES)
        with pytest.raises(NoRoom, match=rf"needs {LIMIT} bytes on disk, others have {BLOCK_BYTES}, .* {LIMIT} ") as refusal:
            await second.check()
        assert refusal.value.retry_after_s
        assert keeper.room.taken_bytes == BLOCK_BYTES


async def test_all_of_the_room_can_be_used_and_not_a_byte_more() -> None:
    spool, keeper = make_spool()
    with spool.room(LIMIT - 5) as most:
        await most.cover(LIMIT - 5)
        with spool.room(None) as last:
            await last.cover(4)
            assert keeper.room.taken_bytes == LIMIT, "the rest, which is less than a block"
            await last.cover(5)
            with pytest.raises(NoRoom, match="SONOTAG_MAX_SPOOLED_BODIES"):
                await last.cover(6)
        with spool.room(None) as next_one:
            await next_one.cover(5)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["hold", "leave", "forget"]),
            st.integers(0, 2),
            st.integers(0, 2),
            st.integers(0, 12),
            st.integers(0, 12),
        )
    )
)
def test_whatever_bodies_ask_for_they_have_no_more_than_there_is_and_each_what_it_was_told(
    steps: list[tuple[str, int, int, int, int]],
) -> None:
    room, held = DiskRoom(10), dict[tuple[int, str], int]()
    for step, worker, body, num_bytes, needed in steps:
        holder = str(body)
        if step == "hold":
            others = sum(held.values()) - held.get((worker, holder), 0)
            granted = room.hold(worker, holder, num_bytes, needed)
            assert granted == (min(num_bytes, 10 - others) if needed <= 10 - others else None)
            if granted is not None:
                held[worker, holder] = granted
        elif step == "leave":
            room.leave(worker, holder)
            held.pop((worker, holder), None)
        else:
            room.forget(worker)
            held = {key: value for key, value in held.items() if key[0] != worker}
        assert room.taken_bytes == sum(held.values()) <= 10
