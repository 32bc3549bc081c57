from __future__ import annotations

import argparse

from service.answers import ClassifyQuery
from service.commands.query_flags import GIVEN_AS_THEY_ARE, add_query_flags, query_items
from service.streaming.messages import parse_query


def items(*arguments: str) -> list[tuple[str, str]]:
    parser = argparse.ArgumentParser()
    add_query_flags(parser, top_k=5, threshold=0.1)
    return query_items(parser.parse_args(arguments))


def test_what_is_not_given_is_not_asked() -> None:
    assert items() == []


def test_zero_is_given_too() -> None:
    assert items("--channel", "0", "--threshold", "0") == [("threshold", "0.0"), ("channel", "0")]


def test_labels_are_repeated_and_never_split() -> None:
    given = items("--label", "Narration, monologue", "--label", "7", "--exclude", "Speech", "--top-k", "3", "--hop", "0.5")
    start = parse_query(given)
    assert (start.labels, start.exclude, start.top_k, start.hop) == (["Narration, monologue", "7"], ["Speech"], 3, 0.5)


def test_every_flag_is_a_parameter_of_rest() -> None:
    assert set(GIVEN_AS_THEY_ARE) <= set(ClassifyQuery.model_fields)
