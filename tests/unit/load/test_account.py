from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError

from tests.load.account import BROKEN, GOOD, LEFT, LOST, REFUSED, Account, Kill, Refused, Route, Wrong

RESET = ConnectionResetError()
KILL = Kill(at=100.0, worker=2, ports=frozenset({5001, 5002}))


@pytest.mark.parametrize("error", [RESET, EOFError(), httpx.RemoteProtocolError("cut"), ConnectionClosedError(None, None)])
def test_what_the_killed_worker_had_in_hand_is_broken(error: Exception) -> None:
    account = Account(kills=[KILL])
    assert account.judge(90.0, 101.0, Route(ports={4000, 5002}), error) == BROKEN
    assert account.judge(90.0, 101.0, Route(ports={4000}, workers={2}), error) == BROKEN, "it kept the stream"


@pytest.mark.parametrize(
    ("began", "ended", "route"),
    [
        (90.0, 101.0, Route(ports={4000})),
        (90.0, 101.0, Route(ports={4000}, workers={1})),
        (90.0, 101.0, Route()),
        (100.5, 101.0, Route(ports={5001})),
        (90.0, 99.0, Route(ports={5001}, workers={2})),
    ],
)
def test_what_another_worker_had_or_what_was_cut_at_another_time_is_lost(began: float, ended: float, route: Route) -> None:
    assert Account(kills=[KILL]).judge(began, ended, route, RESET) == LOST


@pytest.mark.parametrize(
    "error", [Wrong("a wrong answer"), TimeoutError(), httpx.ReadTimeout("for ever"), KeyError("tags"), ValueError("no JSON")]
)
def test_no_kill_excuses_a_wrong_answer_or_none_in_all_the_time(error: Exception) -> None:
    assert Account(kills=[KILL]).judge(90.0, 101.0, Route(ports={5001}), error) == LOST


async def test_every_deed_has_one_end_and_what_is_lost_is_told() -> None:
    account = Account()

    def ends_with(end: str | Exception, port: int = 4000) -> Callable[[Route], object]:
        async def deed(route: Route) -> str:
            route.ports.add(port)
            if isinstance(end, ConnectionResetError):
                account.kills.append(Kill(time.monotonic(), 1, frozenset({5001})))
            if isinstance(end, Exception):
                raise end
            return end

        return deed

    deeds = [ends_with(GOOD), ends_with(LEFT), ends_with(Refused()), ends_with(RESET, port=5001), ends_with(RESET)]
    found = [await account.enter("deed", deed) for deed in deeds]  # type: ignore[arg-type]
    assert found == [GOOD, LEFT, REFUSED, BROKEN, LOST]
    assert account.is_balanced
    assert account.faults == account.lines()
    assert account.lines()[0] == "sent 5: answered 1, refused 1, left 1, broken 1, lost 1; 2 workers killed"
    assert account.lines()[1].endswith("ConnectionResetError: ")


def test_an_account_is_at_fault_when_something_is_lost_or_does_not_add_up() -> None:
    good = Account(sent=2)
    good.ends.update({GOOD: 1, BROKEN: 1})
    assert good.faults == []
    good.sent = 3
    assert good.faults
    lost = Account(sent=1)
    lost.ends.update({LOST: 1})
    assert lost.faults


def test_a_kind_that_was_only_refused_or_cut_has_shown_nothing() -> None:
    account = Account()
    account.kinds.update({("clip", GOOD): 1, ("stream", REFUSED): 9, ("stream", BROKEN): 9, ("visit", LEFT): 1})
    assert account.missing(["clip", "stream", "visit", "batch"]) == ["stream", "batch"]
