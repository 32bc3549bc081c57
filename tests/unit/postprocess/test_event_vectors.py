"""The shared cases of the event law; the page's detector passes the same ones in tests/browser."""

from __future__ import annotations

import pytest

from tests.support.vectors import Case, detect, event_cases

CASES = event_cases()


def test_there_are_cases() -> None:
    assert len(CASES) > 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_detector_finds_what_the_law_says(case: Case) -> None:
    assert detect(case) == case["expected"]
