from __future__ import annotations

import json
import logging
import pickle
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.capacity import StreamLimit, decide_limit, find_difference, load_saved, read_saved, write_saved
from service.capacity_file import capacity_path
from service.errors import SettingsError
from service.inference.runner import ModelSpec
from service.logs import TextFormatter
from service.machine import Machine
from service.settings import Settings
from tests.support.measurements import make_measurement, make_tuning
from tests.support.runners import make_spec


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def decide(chosen: Settings, spec: ModelSpec) -> StreamLimit:
    return decide_limit(chosen, spec, load_saved(chosen).limit)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(TextFormatter().format(record) for record in caplog.records)


def test_a_measurement_is_read_as_it_was_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "capacity.json"
    assert read_saved(path).limit is None
    for streams in (24, 25):
        write_saved(path, limit=make_measurement(streams=streams))
        assert read_saved(path).limit == make_measurement(streams=streams)
    assert list(path.parent.iterdir()) == [path]


def test_the_limit_and_the_tuning_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    write_saved(path, tuning=make_tuning())
    write_saved(path, limit=make_measurement())
    write_saved(path, tuning=make_tuning(cores=4))
    saved = read_saved(path)
    assert (saved.limit, saved.tuning) == (make_measurement(), make_tuning(cores=4))


def test_a_file_of_version_1_is_a_limit_and_one_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    path.write_text(json.dumps({"format_version": 1} | make_measurement(streams=7).model_dump(mode="json")))
    write_saved(path, tuning=make_tuning())
    assert (read_saved(path).limit, read_saved(path).tuning) == (make_measurement(streams=7), make_tuning())
    assert json.loads(path.read_text())["format_version"] == 2, "which earlier versions refuse"
    path.write_text("{")
    write_saved(path, limit=make_measurement())
    assert (read_saved(path).limit, read_saved(path).tuning) == (make_measurement(), None)


def test_the_file_lies_in_the_folder_for_state_unless_the_setting_says_otherwise(tmp_path: Path) -> None:
    home = {"HOME": "/home/somebody"}
    assert capacity_path(settings(), home) == Path("/home/somebody/.local/state/sonotag/capacity.json")
    assert capacity_path(settings(), home | {"XDG_STATE_HOME": "/state"}) == Path("/state/sonotag/capacity.json")
    assert capacity_path(settings(), home | {"XDG_STATE_HOME": "relative"}) == capacity_path(settings(), home)
    assert capacity_path(settings(capacity_file=tmp_path / "file"), home) == tmp_path / "file"
    assert not capacity_path(settings(), {}).exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("no JSON", "it is no JSON"),
        ("[" * 60_000, "it is no JSON"),
        ("[]", "the file: Input should be"),
        (json.dumps({"limit": {"streams": 0}}), "limit.streams: Input should be greater than or equal to 1"),
        (json.dumps({"limit": {}}), "limit.streams: Field required"),
        (json.dumps({"format_version": 1}), "limit.streams: Field required"),
        (json.dumps({"format_version": 3}), "format_version"),
        (json.dumps({"tuning": {}}), "tuning.conditions: Field required"),
        (make_measurement().model_dump_json(), "Extra inputs are not permitted"),
        (" " * 100_000, "more than 65536 bytes"),
    ],
)
def test_a_file_that_is_none_of_ours_is_an_error_that_says_what_is_wrong(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "capacity.json"
    path.write_text(content)
    with pytest.raises(SettingsError) as raised:
        decide(settings(capacity_file=path), make_spec())
    assert told in str(raised.value)
    assert str(path) in str(raised.value)
    assert "SONOTAG_CAPACITY_FILE" in str(raised.value)


def test_in_the_default_place_such_a_file_is_warned_of_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "sonotag").mkdir()
    (tmp_path / "sonotag" / "capacity.json").write_text("{")
    limit = decide(settings(), make_spec())
    assert (limit.streams, limit.origin) == (1000, "default")
    assert "it is no JSON" in logged(caplog)


def test_a_file_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be written.*SONOTAG_CAPACITY_FILE"):
        write_saved(Path("/dev/null/capacity.json"), limit=make_measurement())
    with pytest.raises(SettingsError, match=r"cannot be read: Is a directory"):
        read_saved(tmp_path)


def test_the_measured_limit_holds_where_nobody_set_another_one(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    write_saved(path, limit=make_measurement(streams=24))
    measured = decide(settings(capacity_file=path), make_spec())
    assert (measured.streams, measured.origin, measured.measurement) == (24, "measured", make_measurement(streams=24))
    assert "measured by sonotag bench on 2026-11-24" in measured.explanation
    chosen = decide(settings(capacity_file=path, max_streams=1000), make_spec())
    assert (chosen.streams, chosen.origin, chosen.explanation) == (1000, "setting", "SONOTAG_MAX_STREAMS")
    without = decide(settings(capacity_file=tmp_path / "missing"), make_spec())
    assert (without.streams, without.origin) == (1000, "default")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_sha256": "1" * 64}, "with model fake (111111111111), this is fake (000000000000)"),
        ({"provider": "cuda"}, "with provider cuda, this is cpu"),
        ({"precision": "int8"}, "with precision int8, this is fp32"),
        ({"workers": 2}, "with workers 2, this is 1"),
        ({"cores": 4096}, "with cores 4096, this is "),
    ],
)
def test_what_was_measured_of_something_else_is_not_used_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object], told: str
) -> None:
    path = tmp_path / "capacity.json"
    write_saved(path, limit=make_measurement(**changes))
    with caplog.at_level(logging.INFO):
        limit = decide(settings(capacity_file=path), make_spec())
    assert (limit.streams, limit.origin) == (1000, "default")
    assert told in logged(caplog)


def test_the_same_weights_under_another_name_are_the_same_model() -> None:
    assert find_difference(make_measurement(cores=2), make_spec(name="other"), workers=1, cores=2) is None


def test_a_limit_that_is_older_than_the_models_tuning_says_nothing_of_it() -> None:
    measurement = make_measurement(cores=2)
    before, after = (replace(make_spec(), tuned_at=measurement.measured_at + timedelta(hours=hours)) for hours in (-1, 1))
    assert find_difference(measurement, before, workers=1, cores=2) is None
    assert "before the model was tuned, on 2026-11-24" in (find_difference(measurement, after, workers=1, cores=2) or "")


def test_what_the_supervisor_read_holds_for_its_workers_whatever_is_in_the_file_by_then(tmp_path: Path) -> None:
    path = tmp_path / "capacity.json"
    write_saved(path, limit=make_measurement(streams=24, cores=4096))
    chosen = settings(capacity_file=path)
    ordered = pickle.loads(pickle.dumps(chosen.with_machine(Machine(4096, path.read_bytes()))))
    write_saved(path, limit=make_measurement(streams=25))
    assert (decide(ordered, make_spec()).streams, decide(chosen, make_spec()).streams) == (24, 25)


def test_a_default_is_no_choice_of_a_limit() -> None:
    assert not settings(workers=3).is_stream_limit_set
    assert settings(workers=3, max_streams=9).is_stream_limit_set
