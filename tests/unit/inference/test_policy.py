from __future__ import annotations

import pytest

from service.inference.policy import BULK_SHARE, Entry, Grant, Priority, WindowQueue

LIVE, CLIP, BULK = Priority


def push(
    queue: WindowQueue[str], item: str, priority: Priority = LIVE, deadline: float | None = None, grant: Grant | None = None
) -> Entry[str]:
    entry = Entry(priority, deadline, item, grant)
    queue.push(entry)
    return entry


def push_all(queue: WindowQueue[str], items: str, priority: Priority = LIVE, grant: Grant | None = None) -> list[Entry[str]]:
    return [push(queue, item, priority, grant=grant) for item in items]


def take(queue: WindowQueue[str], most: int = 99, now: float = 0.0) -> str:
    return "".join(entry.item for entry in queue.take(now, most).batch)


def reserve(queue: WindowQueue[str], num_windows: int, priority: Priority = LIVE) -> Grant:
    grant = queue.reserve(num_windows, priority)
    assert grant is not None
    return grant


def test_a_line_is_served_in_the_order_of_arrival() -> None:
    queue = WindowQueue[str](9)
    push_all(queue, "abcde")
    assert [take(queue, 2), take(queue, 2), take(queue, 2), take(queue, 2)] == ["ab", "cd", "e", ""]


def test_live_goes_first_and_bulk_fills_the_room_that_is_left() -> None:
    queue = WindowQueue[str](9)
    push_all(queue, "xyz", BULK)
    push_all(queue, "ab")
    assert [entry.item for entry in queue.upcoming(4)] == ["a", "b", "x", "y"]
    assert take(queue, 4) == "abxy"
    assert len(queue) == 1


def test_a_batch_holds_one_size_and_the_first_of_the_line_decides_which() -> None:
    queue = WindowQueue[str](99)
    for item, size in zip("aBcD", (1, 5, 1, 5), strict=True):
        queue.push(Entry(LIVE, None, item, None, size))
    for item, size in zip("xY", (1, 5), strict=True):
        queue.push(Entry(BULK, None, item, None, size))
    assert [entry.item for entry in queue.waiting()] == list("aBcDxY")
    assert [entry.item for entry in queue.upcoming(9)] == ["a", "c", "x"]
    assert [take(queue, 9), take(queue, 2), take(queue, 9), take(queue, 9)] == ["acx", "BD", "Y", ""]


def test_a_late_window_of_another_size_does_not_decide_the_batch() -> None:
    queue = WindowQueue[str](99)
    queue.push(Entry(LIVE, 1.0, "late", None, 5))
    queue.push(Entry(LIVE, None, "a", None, 1))
    taken = queue.take(2.0, 9)
    assert [entry.item for entry in taken.expired] == ["late"]
    assert [entry.item for entry in taken.batch] == ["a"]


def test_live_fills_the_room_that_bulk_leaves() -> None:
    queue = WindowQueue[str](99)
    push(queue, "x", BULK)
    push_all(queue, "abcdefghij")
    order = [take(queue, 1) for _ in range(BULK_SHARE - 1)]
    assert order == list("abcdefg")
    assert take(queue, 3) == "xhi"


def test_bulk_starts_one_batch_in_eight_while_it_waits() -> None:
    queue = WindowQueue[str](99)
    push_all(queue, "xxxx", BULK)
    push_all(queue, "." * 40)
    assert "".join(take(queue, 1) for _ in range(32)) == ".......x" * 4


def test_the_count_to_eight_begins_when_bulk_begins_to_wait() -> None:
    queue = WindowQueue[str](99)
    push_all(queue, "." * 40)
    for _ in range(20):
        take(queue, 1)
    push(queue, "x", BULK)
    assert "".join(take(queue, 1) for _ in range(8)) == ".......x"


def test_who_has_left_is_not_taken() -> None:
    queue = WindowQueue[str](2)
    a, b, c, d = push_all(queue, "abcd")
    assert queue.discard(a)
    assert not queue.discard(a)
    assert queue.discard(d)
    assert take(queue) == "bc"
    assert not queue.discard(b)
    assert not queue.discard(c)


def test_what_cannot_be_done_in_time_is_dropped() -> None:
    queue = WindowQueue[str](9)
    queue.record_run(1, 2.0)
    push(queue, "late", deadline=11.9)
    push(queue, "just", deadline=12.0)
    push(queue, "never")
    taken = queue.take(10.0, 9)
    assert [entry.item for entry in taken.expired] == ["late"]
    assert [entry.item for entry in taken.batch] == ["just", "never"]
    assert queue.run_seconds == 2.0


def test_what_expires_takes_no_room_in_the_batch() -> None:
    queue = WindowQueue[str](9)
    push(queue, "l", deadline=1.0)
    push_all(queue, "ab")
    assert take(queue, 2, now=5.0) == "ab"


def test_one_slow_run_does_not_starve_the_queue_for_ever() -> None:
    queue = WindowQueue[str](9)
    queue.record_run(1, 8.0)
    rounds = 0
    now = 0.0
    while not (push(queue, "a", deadline=now + 1.0), take(queue, now=now))[1]:
        rounds += 1
        now += 1.0
    assert rounds == 3
    assert queue.take(now, 9).expired == ()
    assert queue.run_seconds == 1.0


def test_speed_is_a_moving_average() -> None:
    queue = WindowQueue[str](9)
    assert queue.seconds_per_window is None
    queue.record_run(2, 1.0)
    assert (queue.run_seconds, queue.seconds_per_window) == (1.0, 0.5)
    queue.record_run(4, 4.0)
    assert queue.run_seconds == pytest.approx(1.6)
    assert queue.seconds_per_window == pytest.approx(0.6)


def test_places_are_held_until_they_are_released() -> None:
    queue = WindowQueue[str](4)
    grant = reserve(queue, 3)
    assert queue.reserve(2, LIVE) is None
    assert queue.free_places(LIVE) == 1
    queue.release(grant)
    queue.release(grant)
    assert queue.free_places(LIVE) == 4


def test_bulk_holds_at_most_half_and_at_least_one() -> None:
    assert [WindowQueue[str](n).limit(BULK) for n in (1, 2, 3, 8)] == [1, 1, 1, 4]
    assert [WindowQueue[str](n).limit(LIVE) for n in (1, 8)] == [1, 8]
    queue = WindowQueue[str](4)
    reserve(queue, 2, BULK)
    assert queue.reserve(1, BULK) is None
    assert queue.reserve(2, LIVE) is not None
    assert queue.free_places(BULK) == 0


def test_a_window_without_a_grant_waits_for_a_place_and_gets_it_when_one_is_taken() -> None:
    queue = WindowQueue[str](2)
    push_all(queue, "abc")
    assert len(queue) == 3
    assert [entry.item for entry in queue.upcoming(9)] == ["a", "b"]
    assert queue.reserve(1, LIVE) is None
    assert take(queue, 1) == "a"
    assert [entry.item for entry in queue.upcoming(9)] == ["b", "c"]


def test_a_discarded_window_makes_room_for_the_next() -> None:
    queue = WindowQueue[str](1)
    a, _ = push_all(queue, "ab")
    queue.discard(a)
    assert [entry.item for entry in queue.upcoming(9)] == ["b"]


def test_live_gets_a_place_before_bulk_that_waited_longer() -> None:
    queue = WindowQueue[str](2)
    grant = reserve(queue, 2)
    push(queue, "x", BULK)
    push(queue, "a", LIVE)
    push(queue, "b", LIVE)
    queue.release(grant)
    assert [entry.item for entry in queue.upcoming(9)] == ["a", "b"]


def test_the_windows_of_a_grant_wait_behind_each_other() -> None:
    queue = WindowQueue[str](8)
    grant = reserve(queue, 2)
    push_all(queue, "abcd", grant=grant)
    push(queue, "z")
    assert [entry.item for entry in queue.upcoming(9)] == ["a", "b", "z"]
    assert queue.free_places(LIVE) == 5
    assert take(queue, 1) == "a"
    assert take(queue) == "bzcd"
    assert queue.free_places(LIVE) == 6


def test_a_window_that_waits_behind_its_grant_can_leave() -> None:
    queue = WindowQueue[str](8)
    grant = reserve(queue, 1)
    _, b, _ = push_all(queue, "abc", grant=grant)
    assert queue.discard(b)
    assert take(queue) == "ac"


def test_a_released_grant_keeps_the_places_of_the_windows_that_still_wait() -> None:
    queue = WindowQueue[str](3)
    grant = reserve(queue, 2)
    push_all(queue, "ab", grant=grant)
    push_all(queue, "c", grant=grant)
    queue.release(grant)
    assert [entry.item for entry in queue.upcoming(9)] == ["a", "b", "c"]
    assert queue.free_places(LIVE) == 0
    assert take(queue, 1) == "a"
    assert queue.free_places(LIVE) == 1
    assert take(queue) == "bc"
    assert queue.free_places(LIVE) == 3


def test_a_window_under_a_released_grant_stands_in_line_like_any_other() -> None:
    queue = WindowQueue[str](1)
    grant = reserve(queue, 1)
    queue.release(grant)
    push_all(queue, "ab", grant=grant)
    assert queue.free_places(LIVE) == 0
    assert take(queue) == "ab"
    assert queue.free_places(LIVE) == 1


def test_lifted_limits_let_everyone_in() -> None:
    queue = WindowQueue[str](2)
    reserve(queue, 2)
    push_all(queue, "abc")
    push_all(queue, "xyz", BULK)
    assert take(queue) == ""
    queue.lift_limits()
    assert take(queue) == "abcxyz"
    assert WindowQueue[str](2).capacity == 2


def test_clear_returns_everything_and_frees_every_place() -> None:
    queue = WindowQueue[str](3)
    grant = reserve(queue, 1, BULK)
    push_all(queue, "xy", BULK, grant)
    push_all(queue, "abcd")
    assert sorted(entry.item for entry in queue.clear()) == list("abcdxy")
    assert len(queue) == 0
    assert queue.free_places(LIVE) == 2
    queue.release(grant)
    assert queue.free_places(LIVE) == 3


@pytest.mark.parametrize("number", [0, -1])
def test_numbers_below_one_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        WindowQueue[str](number)
    with pytest.raises(ValueError, match="1 or more"):
        WindowQueue[str](1).reserve(number, LIVE)


def test_a_window_costs_what_its_run_took_alone_where_runs_overlap() -> None:
    queue: WindowQueue[str] = WindowQueue(4)
    queue.record_run(2, 4.0, own_seconds=1.0)
    assert (queue.run_seconds, queue.seconds_per_window) == (4.0, 0.5)


def test_streams_go_before_clips_and_clips_before_bulk() -> None:
    queue = WindowQueue[str](9)
    push(queue, "x", BULK)
    push(queue, "c", CLIP)
    push(queue, "a")
    assert take(queue, 3) == "acx"


def test_clips_and_bulk_each_start_a_batch_in_eight_or_nine_while_they_wait() -> None:
    queue = WindowQueue[str](200)
    push_all(queue, "c" * 20, CLIP)
    push_all(queue, "x" * 20, BULK)
    push_all(queue, "." * 60)
    assert "".join(take(queue, 1) for _ in range(26)) == ".......xc" + "......xc" * 2 + "."


def test_clips_and_bulk_together_leave_a_quarter_of_the_places_to_streams() -> None:
    assert [WindowQueue[str](n).limit(CLIP) for n in (1, 2, 3, 4, 8, 256)] == [1, 2, 3, 3, 6, 192]
    queue = WindowQueue[str](8)
    reserve(queue, 4, BULK)
    reserve(queue, 2, CLIP)
    assert (queue.free_places(CLIP), queue.free_places(BULK), queue.free_places(LIVE)) == (0, 0, 2)


def test_a_window_whose_time_has_come_goes_on_as_a_live_one() -> None:
    queue = WindowQueue[str](9)
    _, promoted, running = push_all(queue, "xyz", BULK)
    push(queue, "a")
    assert queue.promote(promoted)
    assert take(queue, 2) == "ay"
    assert take(queue, 2) == "xz"
    assert not queue.promote(running)
    assert queue.free_places(LIVE) == 9
