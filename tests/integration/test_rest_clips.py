"""How a clip is sent, with the clients that people have, and what comes back with the answer."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.app_server import AppServer, serving
from tests.support.process import ServiceProcess, running
from tests.support.rest import DOG, MUSIC, SPEECH, expect_error, expect_error_body, heard, lines, scores, wav
from tests.support.runners import FakeRunner
from tests.support.shared import REPOSITORY
from tests.support.sounds import speech

EXAMPLES = REPOSITORY / "examples"
CLIP = wav(heard((SPEECH, 1.0), (MUSIC, 1.0), (DOG, 0.5)))


def curl(*arguments: str, stdin: bytes | None = None) -> bytes:
    program = shutil.which("curl")
    assert program, "curl is not installed"
    command = [program, "--silent", "--show-error", "--max-time", "60", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, timeout=90).stdout


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.wav"
    path.write_bytes(CLIP)
    return path


def test_all_ways_of_sending_a_clip_give_the_same_answer(fake_server: AppServer, clip: Path) -> None:
    url = f"{fake_server.url}/v1/classify"
    expected = httpx.post(url, content=CLIP).json()
    assert expected["duration"] == 2.5
    answers = {
        "curl -F": curl("-F", f"file=@{clip}", url),
        "curl -F of another type": curl("-F", f"file=@{clip};type=text/plain;filename=a.mp3", url),
        "curl --data-binary, which says it is a form": curl("--data-binary", f"@{clip}", url),
        "curl of a type that lies": curl("--data-binary", f"@{clip}", "-H", "Content-Type: application/json", url),
        "curl of no type": curl("--data-binary", f"@{clip}", "-H", "Content-Type:", url),
        "curl from a pipe, in chunks": curl("-X", "POST", "-T", "-", url, stdin=CLIP),
        "curl that asks before it sends": curl("-F", f"file=@{clip}", "-H", "Expect: 100-continue", url),
        "httpx multipart": httpx.post(url, files={"file": ("clip.wav", CLIP, "audio/wav")}).content,
        "httpx chunked": httpx.post(url, content=(CLIP[i : i + 999] for i in range(0, len(CLIP), 999))).content,
    }
    assert {way: json.loads(body) for way, body in answers.items()} == dict.fromkeys(answers, expected)


@pytest.mark.parametrize("name", ["speech.wav", "telephone.flac", "crow.flac", "guitar.ogg"])
def test_curl_gets_the_tags_of_an_example(embedded_server: ServiceProcess, name: str) -> None:
    expected = {"speech.wav": "Speech", "telephone.flac": "Telephone", "crow.flac": "Crow", "guitar.ogg": "Guitar"}[name]
    answer = json.loads(curl("-F", f"file=@{EXAMPLES / name}", f"{embedded_server.url}/v1/classify?top_k=10"))
    labels = [tag["label"] for tag in answer["tags"]]
    assert expected in labels, labels
    if name == "speech.wav":
        assert labels[0] == "Speech"


def test_a_spoken_sentence_gets_speech_first(embedded_server: ServiceProcess, tmp_path: Path) -> None:
    sentence = speech(tmp_path).read_bytes()
    answer = httpx.post(f"{embedded_server.url}/v1/classify", content=sentence).json()
    assert answer["tags"][0]["label"] == "Speech"
    assert answer["tags"][0]["score"] > 0.5


def test_the_clip_of_a_form_may_come_with_a_strange_name(fake_server: AppServer) -> None:
    for name in ("../../etc/passwd", "Übung 1.wav", 'a"b\r\n.wav', "x" * 4000):
        response = httpx.post(f"{fake_server.url}/v1/classify", files={"file": (name, CLIP)})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("content_type", "body", "part"),
    [
        ("multipart/form-data", CLIP, "oundary"),
        ("multipart/form-data; boundary=x", CLIP, "cannot be read"),
        ("multipart/form-data; boundary=x", b"", "no part called file"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n", "cannot be read"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--x--\r\n',
            "must be a file",
        ),
        (
            "multipart/form-data; boundary=x; charset=klingon",
            b'--x\r\nContent-Disposition: form-data; name="sound"; filename="a"\r\n\r\n' + CLIP + b"\r\n--x--\r\n",
            "no form field 'sound'",
        ),
    ],
)
def test_a_form_that_is_none_or_holds_no_file_is_refused(
    fake_server: AppServer, content_type: str, body: bytes, part: str
) -> None:
    response = httpx.post(f"{fake_server.url}/v1/classify", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 400
    message = expect_error(response, 400, "invalid_parameter", response.json()["error"]["param"])
    assert part in message


def test_an_error_of_a_form_field_names_the_field_as_it_was_written(fake_server: AppServer) -> None:
    response = httpx.post(f"{fake_server.url}/v1/classify", files={"file": CLIP}, data={"top_k": "3"})
    assert "query" in expect_error(response, 400, "invalid_parameter", "top_k")


def test_several_files_are_sent_to_the_batch_call(fake_server: AppServer) -> None:
    files = [("file", ("a.wav", CLIP)), ("file", ("b.wav", CLIP))]
    message = expect_error(httpx.post(f"{fake_server.url}/v1/classify", files=files), 400, "invalid_parameter", "file")
    assert "/v1/classify/batch" in message


def test_the_answer_says_where_the_time_went(fake_server: AppServer) -> None:
    timing = httpx.post(f"{fake_server.url}/v1/classify", content=CLIP).headers["server-timing"]
    assert re.fullmatch(r"decode;dur=\d+\.\d, queue;dur=\d+\.\d, infer;dur=\d+\.\d", timing)


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/models", "/nowhere", "/health/live"])
def test_a_request_id_is_accepted_and_returned(fake_server: AppServer, path: str) -> None:
    response = httpx.request("GET", fake_server.url + path, headers={"X-Request-Id": "order-7.of_9"})
    assert response.headers.get_list("x-request-id") == ["order-7.of_9"]


@pytest.mark.parametrize("given", [None, "", "two words", "x" * 129, "a;b", "<script>"])
def test_a_request_without_a_usable_id_gets_one(fake_server: AppServer, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    ids = {httpx.get(f"{fake_server.url}/v1/labels", headers=headers).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f]{16}", made) for made in ids)


def test_the_request_id_is_in_the_log(tmp_path: Path) -> None:
    with running("tests.support.fake_server", environ={"SONOTAG_LOG_FORMAT": "json"}, cwd=tmp_path) as server:
        url = server.wait_ready()
        httpx.post(f"{url}/v1/classify", content=CLIP, headers={"X-Request-Id": "find-me"})
        line = json.loads(server.wait_for_line(r"^.*find-me.*$")[0])
        assert (line["request_id"], line["route"], line["status"]) == ("find-me", "/v1/classify", 200)


def ask_lines(url: str, body: bytes, **query: Any) -> list[dict[str, Any]]:
    headers = {"Accept": "application/x-ndjson"}
    with httpx.stream("POST", f"{url}/v1/classify", content=body, params=query, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.headers["x-accel-buffering"] == "no"
        return list(lines(response))


@pytest.mark.parametrize(
    "query",
    [
        {"hop": 1},
        {"hop": 0.25, "events": "true", "embedding": "true"},
        {"hop": 0.5, "aggregate": "max", "top_k": 2, "labels": ["Dog", "Music"]},
    ],
)
def test_lines_hold_what_the_json_answer_holds(fake_server: AppServer, query: dict[str, Any]) -> None:
    expected = httpx.post(f"{fake_server.url}/v1/classify", content=CLIP, params=query | {"timeline": "true"}).json()
    *windows, summary = ask_lines(fake_server.url, CLIP, **query)
    progress = [window.pop("progress") for window in windows]
    assert progress == sorted(progress)
    assert 0 < progress[0] < progress[-1] == 1
    assert [window.pop("type") for window in windows] == ["window"] * len(windows)
    assert windows == expected.pop("windows")
    assert summary.pop("type") == "summary"
    assert summary == expected


def test_lines_of_sound_whose_length_no_header_tells_have_rising_progress(embedded_server: ServiceProcess) -> None:
    sound = (EXAMPLES / "guitar.ogg").read_bytes()
    *windows, summary = ask_lines(embedded_server.url, sound, hop=2.5)
    progress = [window["progress"] for window in windows]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert windows[-1]["end"] == pytest.approx(summary["duration"])


def test_a_timeline_that_is_too_long_for_one_answer_goes_line_by_line() -> None:
    clip, query = wav(heard((SPEECH, 26.0))), {"timeline": "true", "hop": 0.1, "top_k": 1000}
    with serving(FakeRunner(labels=[f"Sound {i}" for i in range(1000)])) as server:
        refused = httpx.post(f"{server.url}/v1/classify", content=clip, params=query, timeout=60)
        message = expect_error(refused, 400, "invalid_parameter", "timeline")
        assert "application/x-ndjson" in message
        *windows, summary = ask_lines(server.url, clip, **query)
        assert sum(len(window["tags"]) for window in windows) == 260_000
        assert summary["duration"] == 26


def test_sound_that_cannot_be_read_is_an_error_and_no_line(fake_server: AppServer) -> None:
    headers = {"Accept": "application/x-ndjson"}
    response = httpx.post(f"{fake_server.url}/v1/classify", content=b"no sound", headers=headers)
    expect_error(response, 415, "unsupported_audio")


def batch(server: AppServer | ServiceProcess, *clips: bytes, **query: Any) -> list[dict[str, Any]]:
    files = [("file", (f"{i}.wav", body)) for i, body in enumerate(clips)]
    response = httpx.post(f"{server.url}/v1/classify/batch", files=files, params=query)
    assert response.status_code == 200, response.text
    assert list(response.json()) == ["results"]
    results = response.json()["results"]
    assert isinstance(results, list)
    return results


def test_a_batch_is_answered_in_order_with_what_each_clip_alone_gets(fake_server: AppServer) -> None:
    clips = [wav(heard((i % 4, 0.1 + 0.3 * i))) for i in range(12)]
    query = {"events": "true", "timeline": "true", "top_k": 1}
    alone = [httpx.post(f"{fake_server.url}/v1/classify", content=clip, params=query).json() for clip in clips]
    assert batch(fake_server, *clips, **query) == alone
    assert [scores(answer).popitem()[0] for answer in alone] == ["Silence", "Speech", "Music", "Dog"] * 3


def test_a_clip_of_a_batch_that_fails_has_its_error_in_its_place(fake_server: AppServer) -> None:
    first, second, third, fourth = batch(fake_server, CLIP, b"no sound", wav(heard((SPEECH, 0.01))), CLIP)
    assert list(first) == ["model", "duration", "tags"]
    expect_error_body(second["error"], "unsupported_audio")
    assert "400" in expect_error_body(third["error"], "clip_too_short")
    assert fourth == first


def test_a_batch_of_raw_bytes_is_a_batch_of_one(fake_server: AppServer) -> None:
    response = httpx.post(f"{fake_server.url}/v1/classify/batch", content=CLIP)
    assert [result["duration"] for result in response.json()["results"]] == [2.5]


def test_a_batch_has_a_limit_of_parts(fake_server: AppServer) -> None:
    files = [("file", ("a", b"x"))] * 257
    response = httpx.post(f"{fake_server.url}/v1/classify/batch", files=files)
    assert "256" in expect_error(response, 400, "invalid_parameter", "file")


def test_the_parameters_of_a_batch_are_checked_before_its_clips(fake_server: AppServer) -> None:
    response = httpx.post(f"{fake_server.url}/v1/classify/batch", params={"labels": "Cat"}, content=b"no sound")
    expect_error(response, 400, "unknown_label", "labels")
