from __future__ import annotations

from dataclasses import replace

import pytest
from websockets.frames import Close, Frame, Opcode

from tests.load.fairness import Comparison, find_faults
from tests.load.misdeeds import ANSWERED, FLOODED, HELD, HELD_BYTES, MISDEEDS, UNREAD, find_close
from tests.load.streams import Seen

NAME = "a stream that never reads"
DONE = {UNREAD: HELD_BYTES}
FAIR = Comparison(alone=[0.05, 0.06, 0.9], beside=[0.07, 0.06, 0.01], done=[DONE] * 3)


def test_a_fair_service_has_no_faults() -> None:
    assert FAIR.ratio == 1
    assert find_faults({NAME: FAIR}, Seen()) == []


@pytest.mark.parametrize(
    ("comparison", "fault"),
    [
        (replace(FAIR, beside=[0.08] * 3), "1.33 times"),
        (replace(FAIR, beside=[float("nan")] * 3), "nan times"),
        (replace(FAIR, alone=[float("nan")] * 3), "nan times"),
        (Comparison(), "nan times"),
        (replace(FAIR, done=[DONE, {UNREAD: HELD_BYTES - 1}]), "did not do its work"),
        (replace(FAIR, done=[{"refused": 3}]), "did not do its work"),
    ],
)
def test_a_ratio_that_is_too_high_or_not_there_or_of_a_misdeed_not_done_is_a_fault(comparison: Comparison, fault: str) -> None:
    [found] = find_faults({NAME: comparison}, Seen())
    assert NAME in found
    assert fault in found


@pytest.mark.parametrize("seen", [Seen(dropped_seconds=1.0), Seen(refusals=[0.1]), Seen(failures=["closed with 1011"])])
def test_what_happened_to_the_others_is_a_fault(seen: Seen) -> None:
    assert len(find_faults({NAME: FAIR}, seen)) == 1


def test_nothing_compared_is_a_fault() -> None:
    assert find_faults({}, Seen()) == ["nothing was compared"]


@pytest.mark.parametrize("name", MISDEEDS)
def test_a_misdeed_is_proved_by_one_of_its_proofs_in_full(name: str) -> None:
    misdeed = MISDEEDS[name]
    assert misdeed.proofs
    assert set(misdeed.proofs) <= {HELD, UNREAD, ANSWERED, FLOODED}
    for proof, least in misdeed.proofs.items():
        assert misdeed.find_fault({proof: least}) is None
        assert misdeed.find_fault({proof: least - 1})
    assert misdeed.find_fault({"refused": 100, "ConnectionResetError": 100})


def test_the_close_that_ends_a_servers_bytes_is_found() -> None:
    close = Frame(Opcode.CLOSE, Close(4429, "too_many_messages").serialize()).serialize(mask=False)
    pong = Frame(Opcode.PONG, b"").serialize(mask=False)
    assert find_close(pong * 40 + close) == 4429
    assert find_close(close + pong) is None
    assert find_close(close[:-1]) is None
    assert find_close(b"") is None
