from __future__ import annotations

import pytest

from service.errors import QueueFull
from service.inference.live_share import LiveShare


def measured(windows_per_second: float, share: float = 0.8) -> LiveShare:
    live = LiveShare(share)
    live.record_run(1, 1 / windows_per_second)
    return live


def test_streams_are_taken_until_their_part_of_what_the_model_can_do_is_asked_for() -> None:
    live = measured(10)
    places = [live.take(1.0) for _ in range(8)]
    with pytest.raises(
        QueueFull, match=r"ask for 8.0 .* this one for 1.0; the model can do 10.0 now.*80%.*SONOTAG_LIVE_SHARE"
    ) as caught:
        live.take(1.0)
    assert caught.value.retry_after_s == 5
    places[0].release()
    places[0].release()
    live.take(1.0)
    assert live.asked == 8


def test_a_short_hop_counts_for_as_many_windows_as_it_makes() -> None:
    live = measured(10)
    live.take(5.0)
    with pytest.raises(QueueFull):
        live.take(4.0)
    live.take(3.0)


def test_a_stream_alone_is_always_taken() -> None:
    live = measured(0.5)
    place = live.take(10.0)
    with pytest.raises(QueueFull):
        live.take(0.1)
    place.move(live, 20.0)
    assert live.asked == 20


def test_a_stream_that_asks_for_more_than_there_is_keeps_what_it_has() -> None:
    live = measured(10)
    live.take(4.0)
    place = live.take(2.0)
    with pytest.raises(QueueFull):
        place.move(live, 5.0)
    assert live.asked == 6
    place.move(live, 4.0)
    place.move(live, 1.0)
    assert live.asked == 5


def test_a_stream_moves_to_another_model_with_all_it_asks_for() -> None:
    one, other = measured(10), measured(10)
    place = one.take(1.0)
    place.move(other, 2.0)
    assert (one.asked, other.asked) == (0, 2)
    place.release()
    assert other.asked == 0


def test_as_long_as_nothing_was_measured_everybody_is_taken() -> None:
    live = LiveShare(0.8)
    assert live.possible is None
    for _ in range(100):
        live.take(10.0)


def test_beyond_half_of_it_streams_are_taken_as_fast_as_what_they_cost_is_seen() -> None:
    now = 100.0
    live = LiveShare(1.0, 6.0, lambda: now)
    live.record_run(1, 0.01)

    def take_all() -> int:
        for count in range(1000):
            try:
                live.take(1.0)
            except QueueFull:
                return count
        raise AssertionError("nobody was refused")

    assert take_all() == 50
    now += 4.0
    with pytest.raises(QueueFull, match="have just come") as caught:
        live.take(1.0)
    assert caught.value.retry_after_s == pytest.approx(2.0)
    now += 1.9
    assert take_all() == 0
    now += 0.2
    assert take_all() == 25
    for _ in range(2000):  # what has come is felt: the model can do less beside it than it could alone
        live.record_run(1, 0.0125)
    now += 6.1
    assert take_all() == 5


def test_one_stream_that_asks_for_much_is_taken_where_there_is_room() -> None:
    live = LiveShare(1.0, 6.0, lambda: 0.0)
    live.record_run(1, 0.01)
    live.take(90.0)


def test_a_share_of_more_than_there_is_refuses_nobody() -> None:
    live = measured(1.0, share=1.5)
    for _ in range(10):
        live.take(1.0)
        live.record_window(is_late=True)
    assert live.asked == 10


def test_the_cheapest_batch_size_says_what_the_model_can_do() -> None:
    live = LiveShare(1.0)
    live.record_run(1, 0.1)
    live.record_run(8, 0.2)
    assert live.possible == pytest.approx(40)
    for _ in range(50):  # the machine has become busy
        live.record_run(8, 1.6)
    assert live.possible == pytest.approx(10)


def test_while_many_are_late_nobody_else_is_taken() -> None:
    live = measured(1000)
    live.take(1.0)
    live.record_window(is_late=True)
    live.take(1.0)  # one is an accident
    for _ in range(2):
        live.record_window(is_late=True)
    with pytest.raises(QueueFull, match="SONOTAG_MAX_LAG_SECONDS"):
        live.take(1.0)
    for _ in range(50):
        live.record_window(is_late=False)
    live.take(1.0)


def test_what_was_late_counts_for_less_when_streams_have_left() -> None:
    live = measured(1000)
    places = [live.take(1.0) for _ in range(10)]
    for _ in range(5):
        live.record_window(is_late=True)
    with pytest.raises(QueueFull):
        live.take(1.0)
    for place in places[1:]:
        place.release()
    live.take(1.0)
