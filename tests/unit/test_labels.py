from __future__ import annotations

import pytest

from service.errors import UnknownLabel
from service.labels import LabelSet

LABELS = LabelSet(("Speech", "Male speech, man speaking", "Music", "Straße", "42", "music"))


def test_a_name_of_any_case_and_an_id_find_a_label() -> None:
    assert LABELS.resolve("speech") == 0
    assert LABELS.resolve("MALE SPEECH, MAN SPEAKING") == 1
    assert LABELS.resolve("STRASSE") == 3
    assert LABELS.resolve(5) == 5
    assert LABELS.resolve(" 0 ") == 0


def test_a_name_wins_over_an_id() -> None:
    assert LABELS.resolve("42") == 4


def test_the_first_of_two_names_that_differ_in_case_only_is_meant() -> None:
    assert LABELS.resolve("MUSIC") == 2
    assert LABELS.resolve(5) == 5


@pytest.mark.parametrize("wanted", ["6", 6, -1, "-1", "1.0", "٣", "", "9" * 5000, "Speech,Music", "speechless noise"])
def test_anything_else_is_unknown(wanted: str | int) -> None:
    with pytest.raises(UnknownLabel) as caught:
        LABELS.resolve(wanted, param="exclude")
    assert caught.value.param == "exclude"
    assert caught.value.http_status == 400
    assert "6 labels (an exact name, or an id from 0 to 5)" in caught.value.message
    assert len(caught.value.message) < 400


def test_the_nearest_names_are_offered_as_they_are_written() -> None:
    with pytest.raises(UnknownLabel, match="the nearest: 'Speech'"):
        LABELS.resolve("spech")


def test_several_labels_are_a_set_of_ids() -> None:
    assert LABELS.resolve_all(["Speech", 0, "2"]) == {0, 2}
    assert LABELS.resolve_all([]) == frozenset()


def test_a_label_set_is_the_sequence_of_its_names() -> None:
    assert len(LABELS) == 6
    assert list(LABELS)[3] == LABELS[3] == "Straße"
    assert LabelSet(LABELS.names) == LABELS
