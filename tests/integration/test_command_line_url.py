"""`--url`: the commands print the same, whether a model here or a service scores the sound."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import exit_codes
from tests.support.bundles import write_bundle
from tests.support.command import Done, run_sonotag, sonotag_child, start_sonotag
from tests.support.process import ServiceProcess, running
from tests.support.rest import wav
from tests.support.shared import REPOSITORY
from tests.support.sounds import noise, write_wav

SPEECH = str(REPOSITORY / "examples" / "speech.wav")
CROW = str(REPOSITORY / "examples" / "crow.flac")


def both(url: str, *arguments: str, cwd: Path, data: bytes = b"") -> tuple[Done, Done]:
    """Run a command line here and by a service."""
    return (
        run_sonotag(*arguments, cwd=cwd, data=data),
        run_sonotag(*arguments, "--url", url, cwd=cwd, data=data),
    )


def numbers(text: str) -> list[object]:
    """Return text as words, and numbers that compare equal where they differ by a rounding."""
    parts = re.split(r"(-?\d+\.\d+(?:e-?\d+)?)", text)
    return [pytest.approx(float(part), abs=2e-4) if index % 2 else part for index, part in enumerate(parts)]


def floats(text: str) -> list[object]:
    parts = re.split(r"(-?\d+\.\d+(?:e-?\d+)?)", text)
    return [float(part) if index % 2 else part for index, part in enumerate(parts)]


@pytest.mark.parametrize(
    "flags",
    [
        ("--json", "--timeline", "--events", "--hop", "1", "--window", "2"),
        (
            "--csv",
            "--event-options",
            '{"onset_threshold": 0.3, "offset_threshold": 0.2}',
            "--label",
            "Speech",
            "--label",
            "Crow",
        ),
        ("--aggregate", "max", "--top-k", "3"),
    ],
)
def test_classify_prints_the_same_as_without_a_service(
    flags: tuple[str, ...], embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("no sound " * 1000)
    write_wav(tmp_path / "noise.wav", noise(2, 16_000), 16_000)
    paths = [SPEECH, CROW, str(tmp_path), "missing.wav", "-"]
    here, there = both(embedded_server.url, "classify", *flags, *paths, cwd=tmp_path, data=wav(np.full(16_000, 1000, np.int16)))
    assert (there.code, there.errors) == (here.code, here.errors)
    assert here.code == exit_codes.FAILURE
    assert floats(there.output) == numbers(here.output)


def test_the_progress_bar_moves_while_a_service_scores_a_clip(embedded_server: ServiceProcess, tmp_path: Path) -> None:
    long = write_wav(tmp_path / "long.wav", noise(60, 16_000), 16_000, "PCM_16")
    arguments = ("classify", "--json", "--hop", "1", "--url", embedded_server.url, str(long))
    unseen = run_sonotag(*arguments, cwd=tmp_path)
    terminal, end = os.openpty()
    child = sonotag_child(*arguments, environ={"TERM": "xterm", "COLUMNS": "200"})
    with subprocess.Popen(child.command, env=dict(child.environ), cwd=tmp_path, stdout=subprocess.PIPE, stderr=end) as process:
        os.close(end)
        shown = b""
        with suppress(OSError):  # what Linux answers once the other end is closed
            while data := os.read(terminal, 65536):
                shown += data
        assert process.stdout is not None
        output = process.stdout.read().decode()
    os.close(terminal)
    assert (process.returncode, unseen.code) == (exit_codes.OK, exit_codes.OK)
    assert floats(output) == numbers(unseen.output)
    assert {int(percent) for percent in re.findall(rb"(\d+)%", shown)} - {0, 100}


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_listen_prints_the_same_as_without_a_service(
    flags: tuple[str, ...], embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    arguments = ("listen", "--pace", "0", "--hop", "0.5", "--top-k", "2", *flags, SPEECH)
    here, there = both(embedded_server.url, *arguments, cwd=tmp_path)
    assert (there.code, there.errors) == (here.code, here.errors) == (exit_codes.OK, "")
    if not flags:
        assert floats(there.output) == numbers(here.output)
        return
    for mine, theirs in zip(messages(here), messages(there), strict=True):
        for own in ("session_id", "limits", "lag_ms"):
            assert (own in mine) == (own in theirs)
            mine.pop(own, None), theirs.pop(own, None)
        # A service can be come back to; a model in the same process is never lost.
        assert ("resume_token" in theirs) == (theirs["type"] == "ready")
        theirs.pop("resume_token", None)
        assert floats(json.dumps(theirs)) == numbers(json.dumps(mine))


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service with the models `one` and `two`, of windows of a tenth of a second."""
    folder = tmp_path_factory.mktemp("two")
    bundles = ",".join(f"{name}={write_bundle(folder / name)}" for name in ("one", "two"))
    with running("service", "serve", "--bundles", bundles, cwd=folder) as server:
        server.wait_ready()
        yield server


def test_the_service_scores_with_the_model_that_is_named(two_models: ServiceProcess, tmp_path: Path) -> None:
    for model, flags in (("one", ()), ("two", ("--model", "two"))):
        ready, *_ = messages(
            run_sonotag("listen", "--json", "--pace", "0", "--url", two_models.url, *flags, SPEECH, cwd=tmp_path)
        )
        assert ready["model"]["name"] == model
        done = run_sonotag("classify", "--json", "--url", two_models.url, *flags, SPEECH, cwd=tmp_path)
        assert json.loads(done.output)["model"] == model


def test_listen_asks_a_service_for_all_that_its_flags_say(embedded_server: ServiceProcess, tmp_path: Path) -> None:
    asked = (
        ("--top-k", "3", "--threshold", "0.25", "--label", "Speech", "--label", "67", "--exclude", "Crow"),
        ("--window", "2", "--hop", "0.5", "--event-options", '{"max_gap": 0.7}', "--on-lag", "error"),
        ("--model", "ast-tiny-16-16-5s", "--encoding", "s16le", "--sample-rate", "8000", "--channels", "2", "--channel", "1"),
    )
    flags = tuple(flag for group in asked for flag in group)
    url = embedded_server.url
    done = run_sonotag("listen", "--json", "--url", url, *flags, "-", cwd=tmp_path, data=bytes(32_000))
    configuration = messages(done)[0]["configuration"]
    expected = {
        "encoding": "s16le",
        "sample_rate": 8000,
        "channels": 2,
        "channel": 1,
        "top_k": 3,
        "threshold": 0.25,
        "labels": ["Speech", "Animal"],
        "exclude": ["Crow"],
        "window": 2.0,
        "hop": 0.5,
        "on_lag": "error",
        "model": "ast-tiny-16-16-5s",
    }
    assert {name: configuration[name] for name in expected} == expected
    assert configuration["events"]["max_gap"] == 0.7


def messages(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.output.splitlines()]


def test_standard_input_goes_to_the_service_as_it_comes(embedded_server: ServiceProcess, tmp_path: Path) -> None:
    with start_sonotag("listen", "--url", embedded_server.url, "--hop", "1", "-", cwd=tmp_path) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(Path(SPEECH).read_bytes()[:80_000])
            process.stdin.flush()
            first = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            assert process.wait(60) == exit_codes.OK
        finally:
            process.kill()
    assert b"Speech" in first
    assert re.search(rb"^\d\.\d\d s heard, \d windows?, \d events?$", rest.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("classify", "--label", "Speach", SPEECH, CROW), exit_codes.USAGE, "Speech"),
        (("classify", "--model", "none", SPEECH), exit_codes.USAGE, "none"),
        (("classify", "--provider", "cpu", SPEECH), exit_codes.USAGE, "--provider"),
        (("listen", "--pace", "0", "--label", "Speach", SPEECH), exit_codes.USAGE, "Speech"),
        (("listen", "--pace", "0", "--model", "none", SPEECH), exit_codes.USAGE, "none"),
        (("listen", "--pace", "0", "--window", "99", SPEECH), exit_codes.USAGE, "window"),
    ],
)
def test_what_the_service_refuses_is_said_once(
    arguments: tuple[str, ...], code: int, message: str, embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    done = run_sonotag(*arguments, "--url", embedded_server.url, cwd=tmp_path)
    assert (done.code, done.output) == (code, "")
    assert message in done.errors
    assert len(done.errors.splitlines()) == 1


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody is."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize("command", ["classify", "listen"])
def test_a_service_that_is_not_there_ends_the_command_with_one_line(command: str, nobody: str, tmp_path: Path) -> None:
    done = run_sonotag(command, SPEECH, "--url", nobody, cwd=tmp_path)
    assert (done.code, done.output) == (exit_codes.FAILURE, "")
    assert re.fullmatch(rf"sonotag {command}: no .*\n", done.errors), done.errors


@pytest.mark.parametrize("command", ["classify", "bench"])
def test_a_service_whose_name_cannot_be_resolved_ends_the_command_with_one_line(command: str, tmp_path: Path) -> None:
    sound = () if command == "bench" else (SPEECH,)
    done = run_sonotag(command, *sound, "--url", "http://sonotag.invalid:8000", cwd=tmp_path)
    assert (done.code, done.output) == (exit_codes.FAILURE, "")
    words = rf"sonotag {command}: no answer from \w+://sonotag\.invalid:8000\S*: its name cannot be resolved \(.+\)\n"
    assert re.fullmatch(words, done.errors), done.errors


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://x:y"])
def test_an_address_that_is_none_is_wrong_usage(url: str, tmp_path: Path) -> None:
    done = run_sonotag("classify", SPEECH, "--url", url, cwd=tmp_path)
    assert done.code == exit_codes.USAGE
    assert "http://HOST:PORT" in done.errors
