from __future__ import annotations

from pathlib import Path

import pydantic
import pytest

from service.errors import SettingsError
from service.settings import EMBEDDED_BUNDLE, BundleRef, Settings, describe_range
from service.settings_source import HIDDEN, SettingRow, explain, find_unknown_variables, format_value, load_settings


@pytest.fixture(autouse=True)
def clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("SONOTAG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def row(settings: Settings, name: str) -> SettingRow:
    return next(row for row in explain(settings) if row.name == name)


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load_settings({})
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert (settings.provider, settings.precision, settings.max_clip_seconds) == ("auto", "auto", 7200)
    assert (settings.max_lag_seconds, settings.max_ahead_seconds) == (2, 10)
    assert settings.bundles == (EMBEDDED_BUNDLE,)
    assert settings.events.onset_threshold == 0.5


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SONOTAG_PORT=1\nSONOTAG_WORKERS=2\nSONOTAG_HOST=10.0.0.1\nOTHER=x\n")
    monkeypatch.setenv("SONOTAG_PORT", "11")
    monkeypatch.setenv("SONOTAG_WORKERS", "12")
    settings = load_settings({"port": "21"})
    assert (settings.port, settings.workers, settings.host) == (21, 12, "10.0.0.1")
    assert row(settings, "SONOTAG_PORT").origin == "flag"
    assert row(settings, "SONOTAG_WORKERS").origin == "environment"
    assert row(settings, "SONOTAG_HOST").origin == ".env"
    assert row(settings, "SONOTAG_PROVIDER").origin == "default"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONOTAG_PORT", "")
    settings = load_settings({})
    assert settings.port == 8000
    assert row(settings, "SONOTAG_PORT").origin == "default"


def test_settings_cannot_be_changed() -> None:
    settings = load_settings({})
    with pytest.raises(pydantic.ValidationError):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "70000"),
        ("port", "-1"),
        ("port", "eighty"),
        ("workers", "0"),
        ("max_clip_seconds", "0"),
        ("max_clip_seconds", "nan"),
        ("max_lag_seconds", "inf"),
        ("max_frame_bytes", "10"),
        ("provider", "tpu"),
        ("precision", "fp8"),
        ("log_format", "xml"),
        ("threads", "0"),
        ("bundles", "just-a-folder"),
        ("bundles", "a=/x,a=/y"),
        ("bundles", "../a=/x"),
        ("cors_origins", "example.com"),
        ("root_path", "tags/"),
        ("forwarded_allow_ips", "proxy"),
        ("host", ""),
        ("events", "{"),
        ("events", "[]"),
        ("events", '{"onset_threshold": 2}'),
        ("events", '{"onset_threshold": 0.2}'),
        ("events", '{"onset": 0.2}'),
    ],
)
def test_a_bad_value_is_refused_in_one_line_with_name_value_and_range(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({name: value})
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("--" + name.replace("_", "-"))
    assert describe_range(name) in message

    if value:
        monkeypatch.setenv("SONOTAG_" + name.upper(), value)
        with pytest.raises(SettingsError, match="^SONOTAG_" + name.upper()):
            load_settings({})


def test_the_message_shows_the_value_as_it_was_given() -> None:
    with pytest.raises(SettingsError, match=r"--port is '70000': .*; allowed is 0 to 65535"):
        load_settings({"port": "70000"})


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({"port": "x", "workers": "0"})
    assert "--port" in str(caught.value)
    assert "--workers" in str(caught.value)


def test_a_bad_line_of_the_file_is_said_to_be_there(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SONOTAG_PORT=x\n")
    with pytest.raises(SettingsError, match=r"^SONOTAG_PORT in \.env is 'x'"):
        load_settings({})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"SONOTAG_PORT=\xff\xfe\n")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        load_settings({})


def test_an_unknown_flag_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"no setting --prot; did you mean --port\?"):
        load_settings({"prot": "1"})


def test_unknown_variables_are_named_with_the_nearest_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SONOTAG_HOTS=1\nELSE=1\n")
    monkeypatch.setenv("SONOTAG_MAX_LAG", "1")
    monkeypatch.setenv("SONOTAG_PORT", "1")
    first, second = find_unknown_variables()
    assert first.startswith("SONOTAG_HOTS is no setting")
    assert first.endswith("did you mean SONOTAG_HOST?")
    assert second.endswith("did you mean SONOTAG_MAX_LAG_SECONDS?")


def test_bundles_keep_their_order_because_the_first_is_the_default() -> None:
    settings = load_settings({"bundles": "base=/models/base, small=models/small,"})
    assert settings.bundles == (BundleRef("base", Path("/models/base")), BundleRef("small", Path("models/small")))


def test_lists_are_split_at_commas() -> None:
    settings = load_settings({"cors_origins": "https://a.example, http://localhost:3000", "events": '{"max_gap": 1}'})
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert (settings.events.max_gap, settings.events.min_duration) == (1, 0.2)


def test_proxies_are_believed_on_this_machine_and_whoever_opens_the_unix_socket() -> None:
    assert load_settings({}).trusted_proxies == "127.0.0.1,::1"
    assert load_settings({"unix_socket": "/run/s"}).trusted_proxies == "*"
    assert load_settings({"unix_socket": "/run/s", "forwarded_allow_ips": "10.0.0.0/8"}).trusted_proxies == "10.0.0.0/8"


def test_every_setting_has_a_meaning_a_range_and_a_default_within_it() -> None:
    settings = load_settings({})
    for line in explain(settings):
        assert len(line.meaning) > 30, line.name
        assert line.allowed, line.name
        assert line.value == line.default, line.name
        assert line.value != HIDDEN
    # Values as they are printed can be given back, so the table may be pasted into a .env file.
    again = load_settings({name: text for name in Settings.model_fields if (text := format_value(getattr(settings, name)))})
    assert again.model_dump() == settings.model_dump()


def test_settings_survive_the_way_to_a_worker() -> None:
    settings = load_settings({"bundles": "a=/x", "events": '{"per_label": {"Speech": {"max_gap": 1}}}', "threads": "2"})
    assert Settings.model_validate_json(settings.model_dump_json()).model_dump() == settings.model_dump()


def test_each_gpu_gets_a_worker_unless_the_workers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({}).gpus == ()
    monkeypatch.setenv("SONOTAG_GPUS", "0, 2,1")
    settings = load_settings({})
    assert (settings.gpus, settings.workers) == ((0, 2, 1), 3)
    assert load_settings({"workers": "6"}).workers == 6
    assert load_settings({"gpus": "3"}).workers == 1


@pytest.mark.parametrize("gpus", ["0,0", "-1", "one", "0;1"])
def test_gpus_that_are_no_numbers_or_there_twice_are_refused(gpus: str) -> None:
    with pytest.raises(SettingsError, match="--gpus is"):
        load_settings({"gpus": gpus})
