from __future__ import annotations

import pytest

from service.inference.tuning import (
    NEARLY,
    Conditions,
    Trial,
    Tuning,
    Way,
    choose_best,
    choose_by_rule,
    find_difference,
    list_ways,
)
from tests.support.measurements import make_tuning

RULE = Way("int8", 2, 2, 1)
NARROW, WIDE = 192, 768


def test_by_rule_a_cpu_runs_one_window_in_each_of_up_to_four_lanes_which_share_its_threads() -> None:
    assert choose_by_rule("cpu", "int8", 2, WIDE) == RULE
    assert choose_by_rule("cpu", "fp32", 1, NARROW) == Way("fp32", 1, 1, 1)
    assert choose_by_rule("cpu", "fp32", 16, NARROW) == Way("fp32", 16, 4, 1)


@pytest.mark.parametrize(("num_threads", "way"), [(1, (1, 1)), (2, (1, 2)), (16, (1, 16)), (20, (5, 16))])
def test_by_rule_a_narrow_model_in_int8_has_a_thread_for_each_run(num_threads: int, way: tuple[int, int]) -> None:
    assert choose_by_rule("cpu", "int8", num_threads, NARROW) == Way("int8", *way, 1)


def test_by_rule_a_gpu_has_batches_of_32_in_two_lanes_and_tensorrt_in_one() -> None:
    assert choose_by_rule("cuda", "fp16", 16, WIDE) == Way("fp16", 1, 2, 32)
    assert choose_by_rule("cuda", "fp16", 16, WIDE).batch_sizes == (1, 2, 4, 8, 16, 32)
    assert choose_by_rule("tensorrt", "fp16", 16, WIDE).lanes == 1


@pytest.mark.parametrize("hidden_size", [NARROW, WIDE])
@pytest.mark.parametrize("num_threads", [1, 2, 3, 4, 8, 64])
def test_no_way_but_the_rules_has_more_threads_than_it_may_and_int8_makes_no_batches(
    num_threads: int, hidden_size: int
) -> None:
    ways = list_ways("cpu", ("int8", "fp32"), num_threads, hidden_size)
    assert len(set(ways)) == len(ways)
    for precision in ("int8", "fp32"):
        rule = choose_by_rule("cpu", precision, num_threads, hidden_size)
        assert rule in ways
        for way in (way for way in ways if way.precision == precision):
            # A run's own thread is one of the session's.
            assert way.threads - 1 + way.lanes <= num_threads or (way.threads, way.lanes) == (rule.threads, rule.lanes)
            assert precision == "fp32" or way.batch_size == 1


def test_on_two_cores_these_ways_are_tried() -> None:
    assert list_ways("cpu", ("int8",), 2, WIDE) == (Way("int8", 1, 2, 1), Way("int8", 2, 1, 1), RULE)
    assert list_ways("cpu", ("int8",), 2, NARROW) == (Way("int8", 1, 2, 1), Way("int8", 2, 1, 1))
    assert {way.batch_size for way in list_ways("cpu", ("fp32",), 2, NARROW)} == {1, 2, 4}


def test_on_a_gpu_lanes_and_the_largest_batch_are_tried_and_the_cpu_has_one_thread() -> None:
    ways = list_ways("cuda", ("fp16",), 16, WIDE)
    assert {(way.lanes, way.batch_size) for way in ways} == {(lanes, size) for lanes in (1, 2) for size in (8, 16, 32)}
    assert {way.threads for way in ways} == {1}
    assert choose_by_rule("cuda", "fp16", 16, WIDE) in ways


def trial(way: Way, *speeds: float, alone: float = 0.02) -> Trial:
    return Trial(way, speeds, alone)


def test_the_fastest_is_taken() -> None:
    other = Way("int8", 1, 2, 1)
    trials = [trial(RULE, 60.0, 66.0, 62.0), trial(other, 90.0, 88.0, 91.0), trial(Way("fp32", 2, 2, 1), 50.0, 51.0, 52.0)]
    assert choose_best(trials, RULE) == trials[1]
    assert (trials[1].windows_per_second, trials[1].spread) == (90.0, (90.0, 90.0))
    assert trial(RULE, 5.0, 1.0, 4.0, 2.0, 3.0).spread == (2.0, 4.0)


def test_what_is_faster_by_no_more_than_noise_does_not_replace_the_rules_way() -> None:
    other = Way("fp32", 1, 2, 4)
    for speed, best in ((100 * (1 + NEARLY) - 0.1, RULE), (100 * (1 + NEARLY) + 0.1, other)):
        assert choose_best([trial(other, speed, alone=0.01), trial(RULE, 100.0)], RULE).way == best


def test_on_a_machine_where_no_round_is_like_the_other_the_rules_way_stays() -> None:
    noisy = trial(Way("fp32", 1, 2, 2), 113.0, 40.0, 115.0, 30.0, 114.0)
    assert choose_best([noisy, trial(RULE, 102.0, 35.0, 104.0, 60.0, 50.0)], RULE).way == RULE
    # One disturbed round of five says nothing.
    steady = trial(Way("fp32", 1, 2, 2), 113.0, 30.0, 115.0, 112.0, 114.0)
    assert choose_best([steady, trial(RULE, 90.0, 88.0, 89.0, 120.0, 91.0)], RULE) == steady


def test_of_others_about_as_fast_the_one_that_answers_first_is_taken_then_the_smaller_batch_and_the_fewer_lanes() -> None:
    slow, quick = trial(Way("int8", 1, 4, 1), 100.0, alone=0.03), trial(Way("int8", 2, 3, 1), 99.0)
    assert choose_best([slow, quick, trial(RULE, 50.0, alone=0.01)], RULE) == quick
    batched, more, fewer = (trial(Way("fp32", 2, lanes, size), 100.0) for lanes, size in ((1, 4), (3, 1), (1, 1)))
    assert choose_best([batched, more, fewer, trial(RULE, 50.0)], RULE) == fewer


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bundle": "1" * 64}, "with bundle 000000000000, this is 111111111111"),
        ({"provider": "cuda"}, "with provider cpu, this is cuda"),
        ({"precision": "fp32"}, "with precision auto, this is fp32"),
        ({"threads": 1}, "with threads none, this is 1"),
        ({"workers": 2}, "with workers 1, this is 2"),
        ({"cores": 4}, "with cores 2, this is 4"),
        ({"processor": "Another"}, "with processor A processor, this is Another"),
        ({"onnxruntime": "0.0.1"}, "this is 0.0.1"),
    ],
)
def test_what_was_measured_of_something_else_says_what_differs(changes: dict[str, object], told: str) -> None:
    measured = make_tuning().conditions
    assert find_difference(measured, measured) is None
    difference = find_difference(measured, Conditions.model_validate(measured.model_dump() | changes))
    assert difference is not None
    assert told in difference


def test_the_threads_that_a_model_may_use_are_those_that_were_set_or_its_workers_part_of_the_cores() -> None:
    conditions = make_tuning().conditions
    for cores, workers, threads, expected in ((8, 2, None, 4), (2, 4, None, 1), (8, 2, 3, 3), (5, 2, None, 2)):
        here = conditions.model_copy(update={"cores": cores, "workers": workers, "threads": threads})
        assert here.num_threads == expected


def test_a_tuning_is_read_as_it_was_written_and_a_batch_that_is_no_size_is_refused() -> None:
    tuning = make_tuning()
    assert Tuning.model_validate_json(tuning.model_dump_json()) == tuning
    with pytest.raises(ValueError, match="batch_size"):
        Tuning.model_validate_json(tuning.model_dump_json().replace('"batch_size":1', '"batch_size":3'))
