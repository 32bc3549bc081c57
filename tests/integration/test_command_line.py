"""`sonotag classify` and `sonotag listen` as users run them: real processes, the embedded model, spoken sound."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from service import exit_codes
from tests.support.command import TIMEOUT_SECONDS, Done, run_sonotag, sonotag_child, start_sonotag
from tests.support.process import ServiceProcess
from tests.support.sounds import encode, noise, speech, tone, write_wav

TOLERANCE = 1e-4
"""The contract's: batches of another size add in another order."""
EVENT_OPTIONS = '{"onset_threshold": 0.3, "offset_threshold": 0.2}'


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speech(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, spoken: Path) -> Path:
    """Speech, noise, a tone, speech: seventeen seconds in which events begin and end."""
    waveform, rate = soundfile.read(spoken, dtype="float32")
    parts = [waveform, noise(3, rate, amplitude=0.01), tone(4, 1000, rate), np.zeros(2 * rate, np.float32), waveform]
    return write_wav(tmp_path_factory.mktemp("scene") / "scene.wav", np.concatenate(parts), rate, "PCM_16")


def lines_of(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.output.splitlines()]


def test_a_spoken_sentence_is_speech_first_in_the_table(spoken: Path, tmp_path: Path) -> None:
    done = run_sonotag("classify", str(spoken), cwd=tmp_path)
    assert (done.code, done.errors) == (exit_codes.OK, "")
    lines = [line.split() for line in done.output.splitlines() if line.strip()]
    assert lines[0] == [str(spoken), "4.12", "s"]
    assert lines[1] == ["label", "score"]
    assert lines[3][0] == "Speech"
    assert float(lines[3][1]) > 0.9
    assert len(lines) == 3 + 5


@pytest.mark.parametrize(
    ("flags", "query"),
    [
        ((), {}),
        (
            ("--top-k", "600", "--hop", "0.5", "--aggregate", "max", "--timeline", "--event-options", EVENT_OPTIONS),
            {"top_k": 600, "hop": 0.5, "aggregate": "max", "timeline": True, "events": EVENT_OPTIONS},
        ),
        (
            ("--label", "Speech", "--label", "Narration, monologue", "--exclude", "0", "--embedding", "--window", "2"),
            {"labels": ["Speech", "Narration, monologue"], "exclude": "0", "embedding": True, "window": 2},
        ),
    ],
)
def test_json_is_what_rest_answers_and_the_file(
    flags: tuple[str, ...], query: dict[str, Any], scene: Path, embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    done = run_sonotag("classify", "--json", *flags, str(scene), cwd=tmp_path)
    assert (done.code, done.errors) == (exit_codes.OK, "")
    (answer,) = lines_of(done)
    assert next(iter(answer)) == "file"
    assert answer.pop("file") == str(scene)
    response = httpx.post(f"{embedded_server.url}/v1/classify", params=query, content=scene.read_bytes(), timeout=60)
    assert_alike(answer, response.raise_for_status().json())


def assert_alike(got: object, expected: object) -> None:
    """Fail unless both have one shape and their numbers are the same but for rounding."""
    match expected:
        case dict():
            assert isinstance(got, dict)
            assert list(got) == list(expected)
            for name in expected:
                assert_alike(got[name], expected[name])
        case list():
            assert isinstance(got, list)
            assert len(got) == len(expected)
            # Labels whose scores differ by a rounding may change places.
            for mine, theirs in zip(_by_id(got), _by_id(expected), strict=True):
                assert_alike(mine, theirs)
        case float():
            assert got == pytest.approx(expected, abs=TOLERANCE)
        case _:
            assert got == expected


def _by_id(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda item: item["id"]) if items and isinstance(items[0], dict) and "id" in items[0] else items


def test_csv_has_a_row_for_each_tag_window_event_and_error(spoken: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken, and quoted.wav"
    broken.write_bytes(b"RIFF....WAVEnothing")
    done = run_sonotag("classify", "--csv", "--events", "--timeline", "--top-k", "1", str(spoken), str(broken), cwd=tmp_path)
    assert done.code == exit_codes.FAILURE
    rows = list(csv.DictReader(io.StringIO(done.output)))
    assert [row["kind"] for row in rows] == ["clip", *5 * ["window"], "event", "error"]
    assert {row["label"] for row in rows[:-1]} == {"Speech"}
    assert [float(row["end"]) for row in rows[1:6]] == pytest.approx([1, 2, 3, 4, 4.121125])
    assert all(row["file"] == str(spoken) and not row["error"] for row in rows[:-1])
    assert rows[-1]["file"] == str(broken)
    assert rows[-1]["error"]
    assert rows[-1]["error"] in done.errors


def test_a_folder_is_searched_and_what_is_no_sound_is_reported(spoken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep" / "deeper").mkdir(parents=True)
    shutil.copy(spoken, folder / "b.wav")
    encode(folder / "deep" / "deeper", soundfile.read(spoken, dtype="float32")[0], 16_000, "c.mp3")
    (folder / "a.wav").write_text("this is no sound, whatever it is called")
    (folder / "empty.flac").touch()
    (folder / ".hidden.wav").write_text("nor is this")
    (folder / "missing.wav").symlink_to("nowhere")
    done = run_sonotag("classify", "--json", "--top-k", "1", str(folder), cwd=tmp_path)
    assert done.code == exit_codes.FAILURE
    answers = lines_of(done)
    assert [Path(answer["file"]).relative_to(folder).as_posix() for answer in answers] == [
        "a.wav",
        "b.wav",
        "empty.flac",
        "missing.wav",
        "deep/deeper/c.mp3",
    ]
    codes = [answer["error"]["code"] if "error" in answer else answer["tags"][0]["label"] for answer in answers]
    assert codes == ["unsupported_audio", "Speech", "unsupported_audio", "unreadable", "Speech"]
    assert done.errors.count("\n") == 3
    assert "missing.wav: No such file or directory" in done.errors


def test_a_folder_without_files_is_a_failure_that_says_so(tmp_path: Path) -> None:
    done = run_sonotag("classify", str(tmp_path), cwd=tmp_path)
    assert (done.code, done.output) == (exit_codes.FAILURE, "")
    assert done.errors == f"sonotag classify: there is no file in {tmp_path}\n"


def test_standard_input_and_a_named_pipe_are_files_too(spoken: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["/bin/sh", "-c", f"cat {spoken} > {pipe}"]):
        done = run_sonotag("classify", "--json", "-", str(pipe), str(spoken), cwd=tmp_path, data=spoken.read_bytes())
    assert (done.code, done.errors) == (exit_codes.OK, "")
    answers = lines_of(done)
    assert [answer.pop("file") for answer in answers] == ["-", str(pipe), str(spoken)]
    assert_alike(answers[0], answers[2])
    assert_alike(answers[1], answers[2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("classify", "--top-k", "0"), "top_k"),
        (("classify", "--label", "Spech"), "'Speech'"),
        (("classify", "--hop", "9"), "hop is 9 s"),
        (("classify", "--embedding"), "--json"),
        (("classify", "--model", "other"), "ast-tiny-16-16-5s"),
        (("listen", "--pace", "-1"), "--pace is -1"),
        (("listen", "--encoding", "s16le"), "--sample-rate"),
        (("listen", "--sample-rate", "16000"), "--encoding"),
    ],
)
def test_what_cannot_be_asked_is_wrong_usage(arguments: tuple[str, ...], words: str, spoken: Path, tmp_path: Path) -> None:
    done = run_sonotag(*arguments, str(spoken), cwd=tmp_path)
    assert (done.code, done.output) == (exit_codes.USAGE, "")
    assert done.errors.startswith(f"sonotag {arguments[0]}: ")
    assert words in done.errors
    assert done.errors.count("\n") == 1


def test_a_model_that_cannot_be_loaded_has_its_own_exit_code(spoken: Path, tmp_path: Path) -> None:
    for command in ("classify", "listen"):
        done = run_sonotag(command, "--bundles", f"mine={tmp_path}", str(spoken), cwd=tmp_path)
        assert (done.code, done.output) == (exit_codes.START, "")
        assert done.errors.count("\n") == 1


def test_the_offsets_of_listen_are_the_events_of_classify(scene: Path, tmp_path: Path) -> None:
    options = ("--event-options", EVENT_OPTIONS)
    classified = run_sonotag("classify", "--json", "--hop", "1", *options, str(scene), cwd=tmp_path)
    expected = lines_of(classified)[0]["events"]
    listened = run_sonotag("listen", "--json", "--pace", "0", *options, str(scene), cwd=tmp_path)
    assert (listened.code, listened.errors) == (exit_codes.OK, "")
    messages = lines_of(listened)
    assert messages[0]["type"] == "ready"
    assert [message["seq"] for message in messages[1:]] == list(range(1, len(messages)))
    offsets = [m for m in messages if m["type"] == "event" and m["phase"] == "offset" and "retracted" not in m]
    assert len(expected) > 2
    key = ("onset", "label", "offset")
    assert sorted([e[k] for k in key] for e in offsets) == sorted([e[k] for k in key] for e in expected)
    assert messages[-1] == messages[-1] | {"type": "summary", "events": len(expected), "windows": 18, "dropped_seconds": 0.0}


def test_a_file_can_be_listened_to_that_tells_its_index_last(spoken: Path, tmp_path: Path) -> None:
    waveform, rate = soundfile.read(spoken, dtype="float32")
    late = encode(tmp_path, waveform, rate, "late.m4a", "-c:a", "aac")
    done = run_sonotag("listen", "--pace", "20", "--no-events", str(late), cwd=tmp_path)
    assert (done.code, done.errors) == (exit_codes.OK, "")
    *windows, summary = done.output.splitlines()
    assert [line.split()[:3] for line in windows[:2]] == [["0.00", "1.00", "Speech"], ["0.00", "2.00", "Speech"]]
    assert "began" not in done.output
    assert summary.startswith("4.")
    assert summary.endswith(" s heard, 5 windows, 0 events")
    streamed = run_sonotag("listen", "-", cwd=tmp_path, data=late.read_bytes())
    assert streamed.code == exit_codes.FAILURE
    assert "faststart" in streamed.errors


def test_a_container_raw_samples_and_the_file_give_the_same_lines(spoken: Path, tmp_path: Path) -> None:
    waveform, rate = soundfile.read(spoken, dtype="int16")
    raw = ("--encoding", "s16le", "--sample-rate", str(rate))
    stereo = np.stack([np.zeros_like(waveform), waveform], axis=1)
    (tmp_path / "mono.raw").write_bytes(waveform.tobytes())
    ways = [
        run_sonotag("listen", "--pace", "0", str(spoken), cwd=tmp_path),
        run_sonotag("listen", "-", cwd=tmp_path, data=spoken.read_bytes()),
        run_sonotag("listen", "-", *raw, cwd=tmp_path, data=waveform.tobytes()),
        run_sonotag("listen", "-", *raw, "--channels", "2", "--channel", "1", cwd=tmp_path, data=stereo.tobytes()),
        run_sonotag("listen", "--pace", "0", *raw, str(tmp_path / "mono.raw"), cwd=tmp_path),
    ]
    assert [(way.code, way.errors) for way in ways] == [(exit_codes.OK, "")] * len(ways)
    assert len({way.output for way in ways}) == 1
    assert ways[0].output.splitlines()[-1] == "4.12 s heard, 5 windows, 1 event"


def test_a_cut_sample_is_an_error_after_all_that_was_whole(spoken: Path, tmp_path: Path) -> None:
    samples = soundfile.read(spoken, dtype="int16")[0].tobytes()
    flags = ("--encoding", "s16le", "--sample-rate", "16000", "--json")
    done = run_sonotag("listen", "-", *flags, cwd=tmp_path, data=samples[:-1])
    assert done.code == exit_codes.FAILURE
    messages = lines_of(done)
    assert [message["type"] for message in messages].count("tags") == 5
    assert (messages[-1]["type"], messages[-1]["code"], messages[-1]["fatal"]) == ("error", "cut_sample", True)
    assert done.errors == f"sonotag listen: {messages[-1]['message']}\n"


@pytest.mark.parametrize("source", ["nowhere.wav", "."])
def test_a_file_that_cannot_be_read_is_one_line(source: str, tmp_path: Path) -> None:
    done = run_sonotag("listen", source, cwd=tmp_path)
    assert (done.code, done.output) == (exit_codes.FAILURE, "")
    assert done.errors.startswith(f"sonotag listen: {source}: ")
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_live_stream_with_its_summary(number: signal.Signals, spoken: Path, tmp_path: Path) -> None:
    samples = soundfile.read(spoken, dtype="int16")[0][: 5 * 8000].tobytes()
    process = start_sonotag("listen", "-", "--encoding", "s16le", "--sample-rate", "16000", cwd=tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(samples)
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(3)]  # two windows, an onset: it waits for more now
        process.send_signal(number)
        output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    assert (process.returncode, errors) == (exit_codes.OK, b"")
    assert b"Speech" in lines[0]
    assert output.splitlines()[-1] == b"2.50 s heard, 3 windows, 1 event"


@pytest.mark.parametrize("num_signals", [1, 2])
def test_control_c_ends_classify_at_once_and_without_a_word(num_signals: int, tmp_path: Path) -> None:
    long = write_wav(tmp_path / "long.wav", noise(60, 16_000), 16_000, "PCM_16")
    process = start_sonotag("classify", "--csv", "--hop", "0.1", str(long), cwd=tmp_path)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith(b"file,")  # the model is loaded, seconds of work lie before it
        for _ in range(num_signals):
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    assert (process.returncode, output, errors) == (exit_codes.INTERRUPTED, b"", b"")


def test_the_progress_bar_is_on_a_terminal_and_not_in_the_output(spoken: Path, tmp_path: Path) -> None:
    terminal, end = os.openpty()
    child = sonotag_child("classify", "--json", str(spoken), "nowhere.wav", environ={"TERM": "xterm", "COLUMNS": "200"})
    with subprocess.Popen(child.command, env=dict(child.environ), cwd=tmp_path, stdout=subprocess.PIPE, stderr=end) as process:
        os.close(end)
        shown = b""
        with suppress(OSError):  # what Linux answers once the other end is closed
            while data := os.read(terminal, 65536):
                shown += data
        assert process.stdout is not None
        answers = [json.loads(line) for line in process.stdout]
    os.close(terminal)
    assert process.returncode == exit_codes.FAILURE
    assert [answer["file"] for answer in answers] == [str(spoken), "nowhere.wav"]
    assert b"loading the model" in shown
    assert b"100%" in shown
    assert b"sonotag classify: nowhere.wav: No such file or directory" in shown


@pytest.mark.parametrize("arguments", [("classify", "--csv", "--top-k", "500"), ("classify",), ("listen", "--pace", "0")])
def test_a_reader_that_has_enough_ends_it_without_a_word(arguments: tuple[str, ...], spoken: Path, tmp_path: Path) -> None:
    process = start_sonotag(*arguments, str(spoken), cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert errors == b""
    assert process.returncode == exit_codes.FAILURE
