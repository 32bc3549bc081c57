from __future__ import annotations

from dataclasses import replace

import pytest

from tests.load.account import GOOD, LOST, Account
from tests.load.meters import Usage
from tests.load.soak import SoakResult

IDLE = Usage(memory=100_000_000, descriptors=14, threads=9)


def account(*ends: str) -> Account:
    found = Account(sent=len(ends))
    found.ends.update(ends)
    found.kinds.update(("good clip", end) for end in ends)
    return found


def result(after: Usage = IDLE, **changes: object) -> SoakResult:
    return replace(SoakResult(30.0, IDLE, after, account(GOOD), ["good clip"], []), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "after", [IDLE, replace(IDLE, memory=101_900_000), replace(IDLE, memory=90_000_000, descriptors=13, threads=8)]
)
def test_a_soak_after_which_no_more_is_held_is_good(after: Usage) -> None:
    assert result(after).faults == []
    assert "Nothing to complain of." in result(after).report()


@pytest.mark.parametrize(
    "after", [replace(IDLE, memory=102_000_000), replace(IDLE, descriptors=15), replace(IDLE, threads=10), Usage(0, 0, 0)]
)
def test_a_soak_after_which_more_is_held_or_nothing_is_there_any_more_is_at_fault(after: Usage) -> None:
    [fault] = result(after).faults
    assert fault in result(after).report()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"account": account(GOOD, LOST)}, "lost 1"),
        ({"account": account()}, "no good clip was answered"),
        ({"kinds": ["good clip", "reload"]}, "no reload was answered"),
        ({"warnings": ["WARNING a thing"]}, "WARNING a thing"),
        ({"before": Usage(0, 0, 0)}, "nothing was held"),
    ],
)
def test_a_soak_in_which_something_was_lost_never_happened_or_was_complained_of_is_at_fault(
    changes: dict[str, object], fault: str
) -> None:
    assert fault in "\n".join(result(**changes).faults)  # type: ignore[arg-type]
