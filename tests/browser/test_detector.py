"""The page's detector and the service's are one law: the shared cases, and chance."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.support.browser import LivePage
from tests.support.vectors import Case, detect, event_cases

LABELS = ["Speech", "Dog", "Ship's horn, distant"]
SEED = 20_261


def found_by_the_page(page: LivePage, cases: Iterable[Case]) -> list[list[dict[str, object]]]:
    script = """
        const { detectEvents } = await import("./web/detector.js");
        return args[0].map(({ windows, events, labels, sample_rate }) => detectEvents(windows, events, labels, sample_rate)
            .map(({ label, onset, offset, peak }) => ({ label, onset, offset, peak })));
    """
    found: list[list[dict[str, object]]] = page.run(script, list(cases))
    return found


def test_the_pages_detector_passes_the_shared_cases(page: LivePage) -> None:
    cases = event_cases()
    for case, found in zip(cases, found_by_the_page(page, cases), strict=True):
        assert found == case["expected"], case["name"]


def random_case(chance: random.Random) -> Case:
    """Windows as streams, flushes and lost windows make them, with scores that meet the thresholds often."""
    windows, end, longest = [], 0, chance.randint(2, 20)
    for _ in range(chance.randint(1, 25)):
        end += chance.randint(1, 8)
        start = max(0, end - (chance.randint(1, longest) if chance.random() < 0.2 else longest))
        windows.append({"start": start, "end": end, "scores": [chance.randint(0, 8) / 8 for _ in LABELS]})
    offset = chance.randint(1, 7) / 8
    own = {"onset_threshold": 1.0, "min_duration": chance.randint(0, 9) / 10}
    return {
        "sample_rate": 10,
        "window_samples": longest,
        "labels": LABELS,
        "events": {
            "onset_threshold": chance.randint(round(offset * 8), 8) / 8,
            "offset_threshold": offset,
            "min_duration": chance.randint(0, 20) / 20,
            "max_gap": chance.randint(0, 20) / 20,
            "per_label": {chance.choice(LABELS): own} if chance.random() < 0.5 else {},
        },
        "windows": windows,
    }


def test_both_detectors_find_the_same_in_any_windows(page: LivePage) -> None:
    chance = random.Random(SEED)
    cases = [random_case(chance) for _ in range(400)]
    expected = [detect(case) for case in cases]
    assert sum(map(len, expected)) > 400
    for case, found, right in zip(cases, found_by_the_page(page, cases), expected, strict=True):
        for event, truth in zip(found, right, strict=True):
            assert event == truth | {"peak": pytest.approx(truth["peak"])}, case
