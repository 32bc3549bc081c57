from __future__ import annotations

import pydantic
import pytest

from service.postprocess.event_config import EventConfig


def test_a_label_says_only_what_it_does_differently():
    config = EventConfig(per_label={"Dog": {"onset_threshold": 0.8, "max_gap": 0}})
    assert config.for_label("Dog") == (0.8, 0.35, 0.2, 0)
    assert config.for_label(None) == (0.5, 0.35, 0.2, 0.3)


def test_a_patch_changes_what_it_names_and_null_takes_back():
    config = EventConfig(max_gap=1, per_label={"Dog": {"max_gap": 2, "min_duration": 1}})
    merged = config.merged({"max_gap": None, "per_label": {"Dog": {"max_gap": None}, "Cat": {"max_gap": 3}}})
    assert merged.max_gap == 0.3
    assert merged.for_label("Dog") == (0.5, 0.35, 1, 0.3)
    assert merged.for_label("Cat") == (0.5, 0.35, 0.2, 3)
    assert config.max_gap == 1


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"onset_threshold": 0.3}, "offset_threshold 0.35 is above onset_threshold 0.3"),
        ({"per_label": {"Dog": {"offset_threshold": 0.6}}}, "above onset_threshold 0.5 for 'Dog'"),
        ({"onset_threshold": 0}, "greater than 0"),
        ({"onset_threshold": float("nan")}, "finite"),
        ({"max_gap": -1}, "greater than or equal to 0"),
        ({"threshold": 0.5}, "Extra inputs"),
        ({"per_label": 3}, "valid dictionary"),
    ],
)
def test_values_out_of_range_are_refused(values, problem):
    with pytest.raises(pydantic.ValidationError, match=problem):
        EventConfig().merged(values)
