from __future__ import annotations

import pytest

from service.errors import TooManyMessages
from service.streaming.rate import BURST_SECONDS, MessageRate


def test_a_burst_is_let_through_and_then_the_steady_rate() -> None:
    rate = MessageRate(2)
    for _ in range(round(2 * BURST_SECONDS)):
        rate.count(100.0)
    with pytest.raises(TooManyMessages, match=r"more than 2 text messages a second .*SONOTAG_MAX_MESSAGES_PER_SECOND"):
        rate.count(100.0)
    rate.count(100.5)
    with pytest.raises(TooManyMessages):
        rate.count(100.9)


def test_a_quiet_client_saves_no_more_than_a_burst() -> None:
    rate = MessageRate(0.01)
    rate.count(0.0)
    rate.count(1e9)
    with pytest.raises(TooManyMessages):
        rate.count(1e9)
