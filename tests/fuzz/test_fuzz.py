"""The short form of `make fuzz`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

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
    assert campaign.outcomes["sound"] > 20
    assert campaign.outcomes["undecodable_audio"] > 5


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_are_taken_or_refused_as_documented(target: str) -> None:
    draw = random.Random(7)
    for seed in SEEDS[target]:
        TARGETS[target](seed)
        for variant in damaged(seed, 200, draw.randrange(1000)):
            TARGETS[target](variant)
