"""The short form of `make fuzz`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.__main__ import is_complete, num_executed
from tests.fuzz.corpus import damaged, real_files
from tests.fuzz.decoding import Campaign
from tests.fuzz.targets import SEEDS, TARGETS
from tests.support.app_server import shared_nursery


def test_damaged_files_are_sound_or_a_documented_error(tmp_path: Path) -> None:
    campaign = Campaign(shared_nursery(), tmp_path / "broken")
    try:
        campaign.run(real_files(tmp_path, 0.3), 144, seed=7)
    finally:
        campaign.close()
    assert campaign.broken == []
    assert campaign.num_cases == 144
    assert campaign.outcomes["sound"] > 20
    assert campaign.outcomes["undecodable_audio"] > 5


STATISTICS = "stat::number_of_executed_units: {}\nstat::average_exec_per_sec: 9000\n"


@pytest.mark.parametrize(("told", "is_enough"), [("100", True), ("117", True), ("99", False), ("0", False)])
def test_fewer_cases_than_were_asked_for_are_no_success(told: str, is_enough: bool, capsys: pytest.CaptureFixture[str]) -> None:
    num_run = num_executed("INFO: Seed: 1\n" + STATISTICS.format(told))
    assert is_complete("query", num_run, 100) is is_enough
    assert capsys.readouterr().out == ("" if is_enough else f"query: {told} cases were run, 100 were asked for (--cases)\n")
    assert num_executed("it was killed") == 0


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_are_taken_or_refused_as_documented(target: str) -> None:
    draw = random.Random(7)
    for seed in SEEDS[target]:
        TARGETS[target](seed)
        for variant in damaged(seed, 200, draw.randrange(1000)):
            TARGETS[target](variant)
