import math

import pytest

from export.errors import ParityError
from export.verify import LIMITS, enforce, is_kept
from service.inference.bundle import ParityCheck


def make(measured: float, limit: float | None, *, at_least: bool = False, check: str = "scores") -> ParityCheck:
    return ParityCheck(check=check, signal="speech", measured=measured, limit=limit, at_least=at_least)


@pytest.mark.parametrize(
    ("check", "kept"),
    [
        (make(1e-4, 1e-4), True),
        (make(1.1e-4, 1e-4), False),
        (make(0.97, 0.97, at_least=True), True),
        (make(0.96, 0.97, at_least=True), False),
        (make(9.0, None), True),
        (make(math.nan, 1.0), False),
    ],
)
def test_a_check_is_held_to_its_limit(check: ParityCheck, kept: bool) -> None:
    assert is_kept(check) is kept


def test_the_limits_are_those_that_were_promised() -> None:
    assert (LIMITS["fp32"].logits, LIMITS["fp32"].scores, LIMITS["fp32"].ragged) == (5e-4, 1e-4, 1e-4)
    assert (LIMITS["fp16"].scores, LIMITS["fp16"].ragged) == (5e-3, 1e-4)


def test_a_broken_limit_stops_the_export_and_names_the_worst() -> None:
    checks = [make(1e-5, 1e-4), make(2e-4, 1e-4), make(1.0, 5e-4, check="logits"), make(7.0, None)]
    with pytest.raises(ParityError, match=r"fp32: logits on speech is 1, expected at most 0.0005 \(2 of 4 checks failed\)"):
        enforce("fp32", checks)
    with pytest.raises(ParityError, match=r"top-1 agreement on speech is 0.9, expected at least 0.97"):
        enforce("int8", [make(0.9, 0.97, at_least=True, check="top-1 agreement")])
    enforce("fp32", [make(1e-5, 1e-4)])
