from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import pytest

from service.access.key_file import CHECK_SECONDS, KeyFile, changing_keys, read_keys
from service.access.keys import Limits, find_key, looks_like_key, make_key
from service.errors import SettingsError
from tests.support.clock import Clock
from tests.support.keys import CREATED, add_key, remove_key

SCOPES = frozenset({"classify"})


def test_a_key_is_recognised_and_nothing_else_is() -> None:
    text, key = make_key("camera", SCOPES, Limits(), CREATED)
    other, _ = make_key("other", SCOPES, Limits(), CREATED)
    keys = {key.id: key}
    assert looks_like_key(text)
    assert find_key(text, keys) is key
    forged = text[:-1] + ("A" if text[-1] != "A" else "B")
    for wrong in (other, forged, text + "A", text.upper(), f" {text}", "", "sonotag_", text.replace(key.id, "00000000")):
        assert find_key(wrong, keys) is None


def test_two_keys_of_one_name_have_nothing_in_common() -> None:
    (one, first), (two, second) = (make_key("same", SCOPES, Limits(), CREATED) for _ in range(2))
    assert one != two
    assert (first.id, first.salt, first.hash) != (second.id, second.salt, second.hash)
    assert len(one) >= 43 + len("sonotag_")


def test_the_file_has_a_hash_and_not_the_key_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text = add_key(path, "camera", "stream", limits=Limits(max_streams=2, audio_seconds_per_day=60.5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text not in path.read_text()
    assert text.rpartition("_")[2] not in path.read_text()
    [key] = read_keys(path)
    assert (key.name, key.scopes, key.limits) == ("camera", {"stream"}, Limits(2, None, 60.5))
    assert key.matches(text)


def test_a_change_that_fails_leaves_the_file_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "camera")
    before = path.read_bytes()
    change = changing_keys(path)
    change.__enter__().clear()
    change.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
        ({"keys": [{"name": "x"}]}, "keys.0"),
        ({"surplus": 1}, "surplus"),
        ({"keys": None}, "keys"),
    ],
)
def test_a_file_that_is_none_of_keys_is_refused_without_showing_what_is_in_it(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "camera")
    document = json.loads(path.read_text())
    [key] = document["keys"]
    path.write_text(json.dumps(document | change))
    with pytest.raises(SettingsError, match=reason) as caught:
        read_keys(path)
    assert key["hash"] not in str(caught.value)
    assert "SONOTAG_API_KEYS_FILE" in str(caught.value)


@pytest.mark.parametrize("field", ["id", "name"])
def test_two_keys_that_cannot_be_told_apart_are_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "one")
    add_key(path, "two")
    document = json.loads(path.read_text())
    document["keys"][1][field] = document["keys"][0][field]
    path.write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=f"the same {field}"):
        read_keys(path)


def test_what_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Dear Sir or Madam")
    for name in ("text", "none"):
        with pytest.raises(SettingsError, match="SONOTAG_API_KEYS_FILE"):
            KeyFile(tmp_path / name, Clock(0.0))


def test_a_changed_file_is_read_anew_and_a_broken_one_keeps_the_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, clock = tmp_path / "keys.json", Clock(0.0)
    old = add_key(path, "old")
    file = KeyFile(path, clock)
    new = add_key(path, "new")
    assert find_key(new, file.current()) is None, "the file is not looked at every time"
    clock.now += CHECK_SECONDS
    assert find_key(new, file.current())
    remove_key(path, "old")
    clock.now += CHECK_SECONDS
    assert find_key(old, file.current()) is None
    good = path.read_text()
    for break_it in (lambda: path.write_text("{"), path.unlink):
        caplog.clear()
        break_it()
        for _ in range(3):
            clock.now += CHECK_SECONDS
            assert find_key(new, file.current())
        assert [record.levelno for record in caplog.records] == [logging.ERROR], "once"
    path.write_text(good.replace("new", "newer"))
    clock.now += CHECK_SECONDS
    assert [key.name for key in file.current().values()] == ["newer"]
