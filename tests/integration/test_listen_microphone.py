"""`sonotag listen` without a source: PortAudio, ALSA and PulseAudio are real, only the microphone is not there."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from service import exit_codes
from tests.support.command import TIMEOUT_SECONDS, run_sonotag, start_sonotag
from tests.support.process import ServiceProcess
from tests.support.pulseaudio import DEVICE, Room, a_room
from tests.support.shared import REPOSITORY
from tests.support.sounds import write_wav

SPEECH = REPOSITORY / "examples" / "speech.wav"


@pytest.fixture
def room() -> Iterator[Room]:
    with tempfile.TemporaryDirectory() as folder, a_room(Path(folder)) as room:
        yield room


@contextmanager
def listening(room: Room, *flags: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start to listen; the device is open when the context is."""
    with start_sonotag("listen", "--hop", "0.5", *flags, cwd=cwd, environ=room.environ) as process:
        watchdog = threading.Timer(TIMEOUT_SECONDS, process.kill)  # a line that never comes must not hold the tests
        watchdog.start()
        try:
            assert process.stderr is not None
            first = process.stderr.readline().decode()
            assert re.fullmatch(r"sonotag listen: listening to .*, \d+ Hz; Control-C ends it\n", first), first
            yield process
        finally:
            process.kill()
            watchdog.cancel()


def until(process: subprocess.Popen[bytes], words: str) -> None:
    assert process.stdout is not None
    assert any(words in line.decode() for line in process.stdout), f"it ended without {words!r}"


@pytest.mark.parametrize(("channel", "is_remote"), [((), False), ((), True), (("--channel", "1"), False)])
def test_what_is_spoken_into_the_microphone_is_speech(
    channel: tuple[str, ...], is_remote: bool, room: Room, embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    waveform, rate = soundfile.read(SPEECH, dtype="float32")
    right = write_wav(tmp_path / "right.wav", np.stack([np.zeros_like(waveform), waveform], axis=1), rate)
    flags = ("--url", embedded_server.url) if is_remote else ()
    with listening(room, *channel, *flags, cwd=tmp_path) as process, room.playing(right):
        until(process, "began Speech")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert (process.returncode, errors) == (exit_codes.OK, b"")
    assert "ended Speech" in output.decode()
    assert re.fullmatch(r"\d+\.\d\d s heard, \d+ windows?, \d events?", output.decode().splitlines()[-1])


def test_the_other_channel_is_silent(room: Room, tmp_path: Path) -> None:
    waveform, rate = soundfile.read(SPEECH, dtype="float32")
    right = write_wav(tmp_path / "right.wav", np.stack([np.zeros_like(waveform), waveform], axis=1), rate)
    with listening(room, "--channel", "0", "--device", DEVICE.upper(), cwd=tmp_path) as process, room.playing(right):
        until(process, "3.00  Silence")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == exit_codes.OK
    assert b"Speech" not in output


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_microphone_that_is_unplugged_ends_it_after_what_was_heard(
    is_remote: bool, room: Room, embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    flags = ("--url", embedded_server.url) if is_remote else ()
    with listening(room, *flags, cwd=tmp_path) as process:
        until(process, "1.00")
        room.end()
        output, errors = process.communicate()
    assert process.returncode == exit_codes.FAILURE
    # PortAudio's own lines may stand before it.
    assert re.search(r"sonotag listen: default: the device was lost at \d\.\d\d s: is it still", errors.decode())
    assert errors.count(b"sonotag") == 1
    assert b"ended Silence" in output


def test_the_microphones_are_listed_and_a_wrong_one_names_them(room: Room, tmp_path: Path) -> None:
    listed = run_sonotag("listen", "--list-devices", cwd=tmp_path, environ=room.environ)
    assert (listed.code, listed.errors) == (exit_codes.OK, "")
    assert re.search(rf"^ +\d+  {DEVICE}  \(ALSA, \d+ channels, \d+ Hz\)$", listed.output, re.MULTILINE)
    as_json = run_sonotag("listen", "--list-devices", "--json", cwd=tmp_path, environ=room.environ)
    devices = [json.loads(line) for line in as_json.output.splitlines()]
    assert [device["name"] for device in devices if device["is_default"]] == ["default"]
    for flags, words in ((("--device", "kitchen"), DEVICE), (("--device", "e"), "more than one"), (("--channel", "99"), "99")):
        wrong = run_sonotag("listen", *flags, cwd=tmp_path, environ=room.environ)
        assert (wrong.code, wrong.output) == (exit_codes.USAGE, "")
        assert words in wrong.errors
        assert wrong.errors.count("\n") == 1


def test_a_machine_without_a_microphone_says_so(room: Room, tmp_path: Path) -> None:
    room.end()
    for flags in ((), ("--list-devices",)):
        done = run_sonotag("listen", *flags, cwd=tmp_path, environ=room.environ)
        assert (done.code, done.output) == (exit_codes.FAILURE, "")
        assert done.errors.endswith("the system has no device that gives sound\n")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("raise ModuleNotFoundError(\"No module named 'sounddevice'\")", "pip install 'sonotag[mic]'"),
        ("raise OSError('PortAudio library not found')", "libportaudio2"),
    ],
)
def test_what_is_not_installed_is_named(failure: str, words: str, tmp_path: Path) -> None:
    """What importing sounddevice does where it, or the library that it looks for, is not there."""
    (tmp_path / "sounddevice.py").write_text(failure)
    done = run_sonotag("listen", cwd=tmp_path, environ={"PYTHONPATH": str(tmp_path)})
    assert (done.code, done.output) == (exit_codes.START, "")
    assert words in done.errors
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize(
    "flags", [("--device", "0", str(SPEECH)), ("--list-devices", "-"), ("--encoding", "s16le", "--sample-rate", "8000")]
)
def test_flags_that_do_not_go_with_a_microphone_are_wrong_usage(flags: tuple[str, ...], tmp_path: Path) -> None:
    done = run_sonotag("listen", *flags, cwd=tmp_path, data=b"")
    assert (done.code, done.output) == (exit_codes.USAGE, "")
    assert "microphone" in done.errors
