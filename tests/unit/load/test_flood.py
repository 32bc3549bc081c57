from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.load.overload import Flood, Held, table
from tests.load.streams import Seen

NAN = float("nan")
FLAT = Held(before=200, during=[150, 300, 310, 300, 320, 310], after=210)


def flood(**changes: object) -> Flood:
    """A flood that keeps the promise, with changes."""
    kept = Flood(
        capacity=34.0,
        offered_streams=69,
        seen=Seen(refusals=[0.01] * 200, num_open=40),
        steady_lags=[0.05] * 200,
        clips=Counter({200: 100, 503: 200}),
        clip_refusals=[0.01] * 200,
        batch_clips=8,
        memory=FLAT,
        clip_seconds=(0.03, 0.04),
    )
    return replace(kept, **changes)  # type: ignore[arg-type]


def test_a_flood_that_keeps_the_promise_has_no_faults() -> None:
    assert flood().faults == []
    assert "| memory before, most, after | 0, 0, 0 MB |" in table({"with admission": flood()}, 120)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"steady_lags": [3.0] * 200}, "passed the limit"),
        ({"steady_lags": []}, "passed the limit"),
        ({"seen": Seen(refusals=[0.01], dropped_seconds=1.0)}, "were not scored"),
        ({"seen": Seen(refusals=[0.01], failures=["closed with 1011"])}, "closed with 1011"),
        ({"seen": Seen(refusals=[0.2] * 200)}, "upgrades were refused slowly"),
        ({"seen": Seen()}, "upgrades were refused slowly, or not at all: 0"),
        ({"clip_refusals": [0.2] * 200}, "clips were refused slowly"),
        ({"clip_refusals": []}, "clips were refused slowly, or not at all: 0"),
        ({"clips": Counter({200: 1, 503: 1, 0: 3})}, "{0: 3}"),
        ({"clips": Counter({200: 1, 503: 1, 500: 2})}, "{500: 2}"),
        ({"batch_clips": 0}, "bulk stood still"),
        ({"failures": ["a batch was answered with 500"]}, "a batch was answered with 500"),
        ({"left_over": (1.0, 0.0)}, "were still there"),
        ({"left_over": (0.0, 1.0)}, "were still there"),
        ({"clip_seconds": (0.03, 0.06)}, "one clip took 30 ms before and 60 ms after"),
        ({"clip_seconds": (NAN, 0.03)}, "one clip took"),
        ({"clip_seconds": (0.03, NAN)}, "one clip took"),
        ({"clip_seconds": (0.0, 0.0)}, "one clip took"),
        ({"memory": Held()}, "nothing was held"),
    ],
)
def test_a_flood_that_breaks_it_in_one_thing_has_that_fault(changes: dict[str, object], fault: str) -> None:
    [found] = flood(**changes).faults
    assert fault in found


@pytest.mark.parametrize(
    ("held", "fault"),
    [
        (replace(FLAT, during=[100, 200, 300, 400]), "grew on: in the second half it was 2.00 times"),
        (replace(FLAT, during=[100]), "grew on"),
        (replace(FLAT, during=[300, 450, 450, 440]), "rose to 2.25 times"),
        (replace(FLAT, after=260), "ten seconds later memory was 1.30 times"),
        (replace(FLAT, before=0), "nothing was held"),
        (replace(FLAT, during=[]), "nothing was held"),
        (replace(FLAT, after=0), "nothing was held"),
    ],
)
def test_memory_that_is_not_flat_is_a_fault(held: Held, fault: str) -> None:
    [found] = held.faults
    assert fault in found


def test_memory_may_rise_at_the_start_and_swing() -> None:
    assert FLAT.faults == []
    assert replace(FLAT, during=[100, 350, 300, 360, 340, 350]).faults == []
