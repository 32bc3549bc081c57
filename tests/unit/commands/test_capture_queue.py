from __future__ import annotations

from service.commands.capture_queue import CaptureQueue, Piece


def test_pieces_come_out_as_they_went_in() -> None:
    queue = CaptureQueue(3)
    for data in (b"a", b"b", b"c"):
        queue.put(data, 1)
    assert [queue.take(0) for _ in range(3)] == [Piece(data, 0, False) for data in (b"a", b"b", b"c")]


def test_what_does_not_fit_is_counted_and_said_with_what_comes_after_it() -> None:
    queue = CaptureQueue(4)
    for number in range(6):
        queue.put(bytes([number]), 100)
    taken = [queue.take(0), queue.take(0)]
    queue.put(b"later", 100)
    queue.put(b"last", 100)
    rest = [queue.take(0) for _ in range(4)]
    assert [piece and piece.data for piece in (*taken, *rest)] == [b"\0", b"\1", b"\2", b"\3", b"later", b"last"]
    assert [piece and piece.num_lost for piece in (*taken, *rest)] == [0, 0, 0, 0, 200, 0]


def test_a_gap_lasts_until_half_of_what_waits_is_taken() -> None:
    queue = CaptureQueue(4)
    for _ in range(5):
        queue.put(b"x", 1)
    assert queue.take(0) is not None
    queue.put(b"lost too", 1)
    assert queue.take(0) is not None
    queue.put(b"y", 1)
    assert [queue.take(0) for _ in range(3)] == [Piece(b"x", 0, False), Piece(b"x", 0, False), Piece(b"y", 2, False)]


def test_what_the_system_lost_is_said_once() -> None:
    queue = CaptureQueue(1)
    queue.put(b"a", 1)
    queue.put(b"lost", 1, has_overflowed=True)
    assert queue.take(0) == Piece(b"a", 0, False)
    queue.put(b"b", 1)
    assert queue.take(0) == Piece(b"b", 1, True)
    queue.put(b"c", 1)
    assert queue.take(0) == Piece(b"c", 0, False)


def test_the_end_comes_after_what_waits_and_a_device_that_says_nothing_has_ended_too() -> None:
    queue = CaptureQueue(2)
    assert queue.take(0) is None
    queue.put(b"a", 1)
    queue.end()
    assert queue.take(60) == Piece(b"a", 0, False)
    assert queue.take(60) is None
