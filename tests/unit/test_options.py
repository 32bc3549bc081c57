from __future__ import annotations

import pytest

from service.errors import InvalidParameter
from service.options import Grid, parse_events, resolve_grid, whole_windows_per_second
from service.postprocess.event_config import EventConfig
from tests.support.runners import make_spec

SPEC = make_spec(window_samples=80_000, hop_samples=16_000, min_samples=400)


@pytest.mark.parametrize(
    ("window", "hop", "grid"),
    [
        (None, None, Grid(80_000, 16_000)),
        (5.0, None, Grid(80_000, 16_000)),
        (0.5, None, Grid(8_000, 8_000)),
        (0.1, None, Grid(1_600, 1_600)),
        (None, 0.1, Grid(80_000, 1_600)),
        (None, 5.0, Grid(80_000, 80_000)),
    ],
)
def test_windows_are_the_model_s_unless_others_are_asked_for(window, hop, grid):
    assert resolve_grid(SPEC, window, hop) == grid


@pytest.mark.parametrize(
    ("window", "hop", "message"),
    [
        (5.1, None, r"window is 5.1 s; model fake takes 0.1 to 5 s"),
        (0.05, 0.05, r"window is 0.05 s"),
        (-1, None, r"window is -1 s"),
        (None, 0.05, r"hop is 0.05 s; it must be from 0.1 s to the window, 5 s"),
        (1.0, 1.1, r"hop is 1.1 s; .* 1 s"),
        (None, 0, r"hop is 0 s"),
    ],
)
def test_windows_that_the_model_cannot_take_are_refused_with_what_it_takes(window, hop, message):
    with pytest.raises(InvalidParameter, match=message):
        resolve_grid(SPEC, window, hop)


@pytest.mark.parametrize("value", [True, "true", "1", "yes", " On ", {}, "{}"])
def test_events_that_are_only_switched_on_are_as_configured(value):
    base = EventConfig(max_gap=1)
    assert parse_events(value, base) == base


@pytest.mark.parametrize("value", [False, "false", "0", "no", "off"])
def test_events_may_be_switched_off(value):
    assert parse_events(value, EventConfig()) is None


@pytest.mark.parametrize("value", [{"max_gap": 2}, '{"max_gap": 2}'])
def test_an_object_changes_what_is_configured(value):
    assert parse_events(value, EventConfig(min_duration=1)) == EventConfig(min_duration=1, max_gap=2)


@pytest.mark.parametrize(
    "value", [3, None, [], "maybe", "[1]", "{", "[" * 100_000, '{"max_gap": "x"}', {"per_label": {"a": 1}}]
)
def test_anything_else_is_refused(value):
    with pytest.raises(InvalidParameter) as refused:
        parse_events(value, EventConfig())
    assert refused.value.param.startswith("events")


def test_a_model_with_a_shorter_hop_of_its_own_gets_the_shortest_that_may_be_asked_for():
    spec = make_spec(window_samples=16_000, hop_samples=160, min_samples=400)
    assert resolve_grid(spec, None, None) == Grid(16_000, 1_600)


def test_a_stream_of_short_windows_asks_for_a_part_of_as_many_long_ones() -> None:
    spec = make_spec(window_samples=16_000, windows_samples=(4_000, 16_000))
    assert whole_windows_per_second(spec, Grid(16_000, 8_000)) == 2
    assert whole_windows_per_second(spec, Grid(5_000, 8_000)) == 2
    assert whole_windows_per_second(spec, Grid(4_000, 2_000)) == 2
