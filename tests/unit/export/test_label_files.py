import json
from pathlib import Path

import pytest

from export.errors import CheckpointError
from export.labels import choose_activation, read_labels

AUDIOSET_CSV = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/0ytgt,"Child speech, kid speaking"\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", AUDIOSET_CSV),
        ("labels.txt", "Speech\n\nChild speech, kid speaking\n"),
        ("labels.json", json.dumps(["Speech", "Child speech, kid speaking"])),
        ("id2label.json", json.dumps({"1": "Child speech, kid speaking", "0": "Speech"})),
    ],
)
def test_every_kind_of_label_file_is_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == ("Speech", "Child speech, kid speaking")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "no labels"),
        ("a.txt", "Dog\ndog\n", "'dog' is there twice"),
        ("a.csv", "index,mid\n0,/m/1\n", "no column"),
        ("a.csv", "", "no column"),
        ("a.json", "{", "no JSON"),
        ("a.json", "3", "holds a int"),
        ("a.json", '["a", 3]', "label 3 is no name"),
        ("a.json", '{"0": "a", "2": "b"}', "ids must be 0 to 1"),
        ("a.json", '{"x": "a"}', "no integer"),
    ],
)
def test_a_bad_label_file_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_labels(tmp_path / name)


def test_a_missing_label_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.txt cannot be read"):
        read_labels(tmp_path / "none.txt")


def test_the_configuration_decides_the_activation_and_else_the_labels() -> None:
    audioset = ("Speech", *(f"class {index}" for index in range(526)))
    assert choose_activation(None, audioset) == "sigmoid"
    assert choose_activation(None, audioset[:521]) == "sigmoid"
    assert choose_activation("single_label_classification", audioset) == "softmax"
    assert choose_activation(None, ("yes", "no")) == "softmax"
    assert choose_activation("multi_label_classification", ("yes", "no")) == "sigmoid"
