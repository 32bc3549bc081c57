"""Label files, and what the labels tell about the head's activation."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from export.errors import CheckpointError

Activation = Literal["sigmoid", "softmax"]

AUDIOSET_SIZES = (521, 527)
"""All of AudioSet's classes, or those that YAMNet and its students kept."""


def read_labels(path: Path) -> tuple[str, ...]:
    """Read a label file.

    Args:
        path: One name a line; or JSON: a list of names, or an object from id to name; or CSV with a column
            ``display_name`` or ``label`` (AudioSet's ``class_labels_indices.csv`` as it is).

    Raises:
        CheckpointError: It cannot be read, is empty, or names a label twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"labels file {path.name} cannot be read: {error}") from error
    if path.suffix == ".json":
        names = _from_json(text, path.name)
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
        column = next((name for name in ("display_name", "label", "name") if rows and name in rows[0]), None)
        if column is None:
            raise CheckpointError(f"labels file {path.name} has no column display_name, label or name")
        names = [row[column] for row in rows]
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    return check_labels(names, path.name)


def _from_json(text: str, where: str) -> list[object]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"labels file {where} is no JSON: {error}") from error
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        return order_labels(document, where)
    raise CheckpointError(f"labels file {where} holds a {type(document).__name__}, expected a list or an object")


def order_labels(id2label: Mapping[str, object], where: str) -> list[object]:
    """Return the names of an object from id to name, in the order of the ids.

    Raises:
        CheckpointError: The ids are not 0, 1, 2, ...
    """
    try:
        by_id = {int(key): name for key, name in id2label.items()}
    except ValueError as error:
        raise CheckpointError(f"{where}: a label id is no integer: {error}") from error
    if sorted(by_id) != list(range(len(by_id))):
        raise CheckpointError(f"{where}: label ids must be 0 to {len(by_id) - 1}")
    return [by_id[index] for index in range(len(by_id))]


def check_labels(names: list[object], where: str) -> tuple[str, ...]:
    """Return the names as a tuple.

    Raises:
        CheckpointError: There is none, one is no text, or two are the same.
    """
    if not names:
        raise CheckpointError(f"{where}: there are no labels")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise CheckpointError(f"{where}: label {name!r} is no name")
        if name.casefold() in seen:
            raise CheckpointError(f"{where}: label {name!r} is there twice")
        seen.add(name.casefold())
    return tuple(str(name) for name in names)


def choose_activation(problem_type: object, labels: tuple[str, ...]) -> Activation:
    """Decide how logits become scores where the caller did not say.

    ``problem_type`` decides where the configuration has one. Most published checkpoints have none: then AudioSet's label
    list means independent sigmoids (it is a multi-label set), and any other list means one softmax, as for Speech
    Commands, ESC-50, emotions or genres.
    """
    if problem_type == "multi_label_classification":
        return "sigmoid"
    if problem_type == "single_label_classification":
        return "softmax"
    return "sigmoid" if len(labels) in AUDIOSET_SIZES and labels[0] == "Speech" else "softmax"
