from __future__ import annotations

import pytest

from service.bench.search import next_number


def search(limit: int, *, first: int = 4, largest: int = 100_000) -> tuple[int, list[int]]:
    """Search on a machine that keeps the objective up to a number; return what was found and what was tried."""
    tried: list[int] = []
    while True:
        kept, broken = [n for n in tried if n <= limit], [n for n in tried if n > limit]
        number = next_number(kept, broken, first=first, largest=largest)
        if number is None:
            return max(kept, default=0), tried
        tried.append(number)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 24, 31, 32, 33, 1000])
def test_the_largest_number_is_found_within_a_twentieth(limit: int) -> None:
    found, tried = search(limit)
    assert found <= limit
    assert limit - found <= max(0, 0.06 * limit)
    assert len(tried) == len(set(tried))


def test_it_doubles_until_it_breaks_and_then_halves_what_is_between() -> None:
    assert search(24)[1] == [4, 8, 16, 32, 24, 28, 26, 25]


def test_it_ends_where_it_may_go_no_further() -> None:
    assert search(10_000, largest=50) == (50, [4, 8, 16, 32, 50])


def test_where_one_stream_is_too_many_it_says_so() -> None:
    assert search(0) == (0, [4, 2, 1])
