from __future__ import annotations

import pytest

from service.client import Retry
from service.errors import QueueFull


@pytest.mark.parametrize(("told", "chance", "pause"), [(4.0, 0.0, 4.0), (4.0, 0.8, 4.8), (None, 0.0, 0.25), (29.0, 0.8, 30.0)])
def test_clients_that_were_told_the_same_come_back_at_different_times(told: float | None, chance: float, pause: float) -> None:
    retry = Retry(random=lambda: chance)
    assert retry.pause_seconds(1, QueueFull("full", retry_after_s=told)) == pytest.approx(pause)
    assert retry.pause_seconds(1, QueueFull("full", retry_after_s=31.0)) is None
