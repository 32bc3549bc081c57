from __future__ import annotations

import numpy as np
import pytest

from service.labels import LabelSet
from service.postprocess.scores import Aggregate, TagSelector, apply_function

LABELS = LabelSet(("a", "b", "c", "d"))
SCORES = np.array([0.25, 0.5, 0.125, 0.5], dtype=np.float32)


def ids(**options):
    return [tag.id for tag in TagSelector(LABELS, **{"top_k": 9, **options}).select(SCORES)]


def test_tags_come_best_first_and_equal_ones_in_the_order_of_their_ids():
    assert ids() == [1, 3, 0, 2]
    (tag,) = TagSelector(LABELS, top_k=1).select(SCORES)
    assert (tag.id, tag.label, tag.score) == (1, "b", 0.5)


def test_the_threshold_is_reached_by_equality_and_labels_apply_before_top_k():
    assert ids(threshold=0.25) == [1, 3, 0]
    assert ids(top_k=1, exclude=frozenset({1})) == [3]
    assert ids(include=frozenset({0, 2}), exclude=frozenset({2})) == [0]
    assert ids(include=frozenset({2}), exclude=frozenset({2})) == []
    assert TagSelector(LABELS, 1).selected is None


def test_a_threshold_that_is_no_binary_fraction_is_reached_by_equality_too():
    assert [t.id for t in TagSelector(LABELS, 9, threshold=0.1).select(np.float32([0.1, 0, 0, 0]))] == [0]


def test_mean_weighs_each_window_by_the_sound_in_it_and_max_takes_the_largest():
    mean, largest = Aggregate("mean"), Aggregate("max")
    for aggregate in (mean, largest):
        aggregate.add(np.float32([0.0, 0.9]), 30)
        aggregate.add(np.float32([0.4, 0.1]), 10)
    np.testing.assert_allclose(mean.result(), [0.1, 0.7], rtol=1e-6)
    np.testing.assert_allclose(largest.result(), [0.4, 0.9], rtol=1e-6)


def test_an_aggregate_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no window"):
        Aggregate("mean").result()


def test_functions_of_logits_are_finite_also_far_out():
    logits = np.float32([-1e4, 0, 1e4])
    np.testing.assert_allclose(apply_function(logits, "sigmoid"), [0, 0.5, 1])
    np.testing.assert_allclose(apply_function(logits, "softmax"), [0, 0, 1])
    np.testing.assert_array_equal(apply_function(logits, "none"), logits)
    np.testing.assert_allclose(apply_function(np.float32([1, 2, 3]), "softmax").sum(), 1, rtol=1e-6)
