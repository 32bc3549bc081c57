"""Every error that the contract names: its status, its code, its words, and nothing of the machine in it."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.app import create_app
from service.settings import Settings
from tests.support.app_server import AppServer, serving
from tests.support.process import ServiceProcess
from tests.support.raw_requests import knock, receive, send
from tests.support.rest import MUSIC, SPEECH, expect_error, expect_error_body, heard, lines, wav
from tests.support.runners import FakeRunner, level
from tests.support.sounds import encode, tone

CLIP = wav(heard((SPEECH, 1.0)))
POSTS = ["/v1/classify", "/v1/classify/batch", "/compat/huggingface"]


@pytest.fixture(scope="module")
def small_server() -> Iterator[AppServer]:
    """A service with small limits: 64 KiB of body, three seconds of sound."""
    with serving(max_body_bytes=65_536, max_clip_seconds=3) as server:
        yield server


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_405_and_names_those_that_are_allowed(fake_server: AppServer, method: str, path: str) -> None:
    response = httpx.request(method, fake_server.url + path)
    assert method in expect_error(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v2", "/v1", "/v1/classify/x", "/../../etc/passwd", "/%2e%2e/etc", "/static/x"])
def test_a_path_that_is_not_there_is_404(fake_server: AppServer, path: str) -> None:
    response = httpx.post(fake_server.url + path, content=CLIP)
    assert expect_error(response, 404, "not_found")


def test_a_model_that_is_not_served_is_404_wherever_it_is_named(fake_server: AppServer) -> None:
    for response in (
        httpx.post(f"{fake_server.url}/v1/classify", params={"model": "none"}, content=CLIP),
        httpx.post(f"{fake_server.url}/v1/classify/batch", params={"model": "none"}, content=CLIP),
        httpx.get(f"{fake_server.url}/v1/labels", params={"model": "none"}),
        httpx.get(f"{fake_server.url}/v1/models/none"),
        httpx.get(f"{fake_server.url}/v1/models/..%2F..%2Fetc"),
    ):
        assert response.status_code == 404
        message = expect_error(response, 404, "not_found", response.json()["error"]["param"])
        assert response.request.url.path.startswith("/v1/models/..") or "fake" in message


@pytest.mark.parametrize("path", ["/v1/classify", "/compat/huggingface"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"\x00" * 100_000,
        b"%PDF-1.7 ...",
        b"\x89PNG\r\n\x1a\n" + b"x" * 99,
        b"RIFF",
        b"<html>",
        b"PK\x03\x04" + b"x" * 999,
    ],
)
def test_what_is_no_sound_is_415(fake_server: AppServer, path: str, body: bytes) -> None:
    expect_error(httpx.post(fake_server.url + path, content=body), 415, "unsupported_audio")


def test_a_video_without_sound_is_415(fake_server: AppServer, tmp_path: Path) -> None:
    silent = tmp_path / "silent.mp4"
    subprocess.run(["ffmpeg", "-loglevel", "error", "-f", "lavfi", "-i", "color=s=32x32:d=1", "-an", str(silent)], check=True)
    expect_error(httpx.post(f"{fake_server.url}/v1/classify", content=silent.read_bytes()), 415, "unsupported_audio")


def test_sound_that_is_broken_is_400(fake_server: AppServer, tmp_path: Path) -> None:
    flac = encode(tmp_path, tone(1.0, 440, 16_000), 16_000, "a.flac").read_bytes()
    not_a_number = np.full(16_000, np.nan, "<f4").tobytes()
    head = (
        b"RIFF"
        + struct.pack("<I", 36 + len(not_a_number))
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 3, 1, 16_000, 64_000, 4, 32)
    )
    for body in (flac[:120], head + b"data" + struct.pack("<I", len(not_a_number)) + not_a_number):
        response = httpx.post(f"{fake_server.url}/v1/classify", content=body)
        expect_error(response, 400, "undecodable_audio")


def test_a_clip_that_is_too_short_is_422_and_says_how_much_is_needed(fake_server: AppServer) -> None:
    for num_samples in (1, 399):
        response = httpx.post(f"{fake_server.url}/v1/classify", content=wav(level(SPEECH, num_samples)))
        message = expect_error(response, 422, "clip_too_short")
        assert str(num_samples) in message
        assert "400" in message
    assert httpx.post(f"{fake_server.url}/v1/classify", content=wav(level(SPEECH, 400))).status_code == 200


def test_a_file_without_any_sample_is_422(fake_server: AppServer) -> None:
    response = httpx.post(f"{fake_server.url}/v1/classify", content=wav(level(SPEECH, 0)))
    expect_error(response, 422, "clip_too_short")


@pytest.mark.parametrize("path", POSTS)
def test_a_body_whose_stated_length_is_too_large_is_413_before_it_is_sent(small_server: AppServer, path: str) -> None:
    answer = knock(small_server.url, path, 10_000_000_000)
    assert answer.status == 413  # and not 100 Continue
    message = expect_error_body(json.loads(answer.body)["error"], "body_too_large")
    assert "10000000000" in message
    assert "65536" in message
    assert "SONOTAG_MAX_BODY_BYTES" in message


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("size", [65_537, 20_000_000])
def test_a_body_that_turns_out_too_large_is_413_while_it_arrives(small_server: AppServer, path: str, size: int) -> None:
    body = (b"\x00" * min(16_384, size - start) for start in range(0, size, 16_384))
    response = httpx.post(small_server.url + path, content=body)
    assert response.request.headers["transfer-encoding"] == "chunked"
    assert "SONOTAG_MAX_BODY_BYTES" in expect_error(response, 413, "body_too_large")


@pytest.mark.parametrize("path", POSTS)
def test_a_form_that_is_too_large_is_413(small_server: AppServer, path: str) -> None:
    def form() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield from (b"\x00" * 16_384 for _ in range(100))

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    expect_error(httpx.post(small_server.url + path, content=form(), headers=headers), 413, "body_too_large")


def test_a_body_of_exactly_the_limit_is_read(small_server: AppServer) -> None:
    clip = CLIP + b"\x00" * (65_536 - len(CLIP))  # bytes after the last chunk of a WAV file say nothing
    assert httpx.post(f"{small_server.url}/v1/classify", content=clip).status_code == 200


def test_a_clip_whose_header_states_too_much_sound_is_413(small_server: AppServer) -> None:
    eight_bits = wav(level(SPEECH, 24_001), rate=8000)
    message = expect_error(httpx.post(f"{small_server.url}/v1/classify", content=eight_bits), 413, "clip_too_long")
    assert message == "the clip is 3.0 s long, the limit is 3 s (SONOTAG_MAX_CLIP_SECONDS)"
    assert httpx.post(f"{small_server.url}/v1/classify", content=wav(level(SPEECH, 24_000), rate=8000)).status_code == 200


@pytest.mark.parametrize("name", ["a.ogg", "a.aac", "a.mp3", "a.webm"])
def test_a_clip_that_turns_out_too_long_is_413(small_server: AppServer, tmp_path: Path, name: str) -> None:
    sound = encode(tmp_path, tone(4.0, 440, 16_000), 16_000, name).read_bytes()
    assert len(sound) < 65_536
    response = httpx.post(f"{small_server.url}/v1/classify", content=sound)
    assert "the limit is 3 s" in expect_error(response, 413, "clip_too_long") or "longer than 3 s" in response.text
    assert "SONOTAG_MAX_CLIP_SECONDS" in response.text


def test_a_request_is_refused_before_its_body_is_sent_where_its_head_is_wrong(fake_server: AppServer) -> None:
    for query, status in (("model=none", 404), ("labels=Cat", 400), ("windo=1", 400), ("hop=9", 400)):
        with send(fake_server.url, f"/v1/classify?{query}", b"", 1_000_000) as connection:
            assert receive(connection).status == status


def test_a_model_that_fails_is_500_and_the_next_request_works() -> None:
    secret = RuntimeError("/home/someone/model.onnx: Traceback (most recent call last)")
    with serving(FakeRunner(failures=[secret, None, secret])) as server:
        response = httpx.post(f"{server.url}/v1/classify", content=CLIP)
        expect_error(response, 500, "inference_failed")
        assert httpx.post(f"{server.url}/v1/classify", content=CLIP).status_code == 200
        failed = httpx.post(f"{server.url}/v1/classify/batch", content=CLIP).json()["results"][0]
        expect_error_body(failed["error"], "inference_failed")


def test_an_error_after_the_first_line_is_the_last_line() -> None:
    with serving(FakeRunner(failures=[None, None, RuntimeError("/secret/path")], batch_sizes=(1,))) as server:
        clip = wav(heard((SPEECH, 2.0), (MUSIC, 8.0)))
        headers = {"Accept": "application/x-ndjson"}
        with httpx.stream("POST", f"{server.url}/v1/classify", content=clip, headers=headers) as response:
            assert response.status_code == 200
            *windows, last = lines(response)
        assert [window["type"] for window in windows] == ["window"] * 2
        assert last.pop("type") == "error"
        expect_error_body(last["error"], "inference_failed")
        assert last["error"]["retryable"]


@pytest.mark.parametrize("request_line", ["POST /v1/classify", "GET /v1/models", "GET /v1/labels", "GET /health/ready"])
async def test_before_the_models_are_loaded_everything_but_liveness_is_503(request_line: str) -> None:
    app = create_app(Settings(_env_file=None), runner=FakeRunner())  # its lifespan, which loads, has not begun
    method, path = request_line.split()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        response = await client.request(method, path, content=CLIP)
        assert "loaded" in expect_error(response, 503, "not_ready")
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["retryable"]
        assert (await client.get("/health/live")).status_code == 200


async def test_our_own_fault_is_500_without_a_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> None:
        raise RuntimeError("/secret/path")

    app = create_app(Settings(_env_file=None), runner=FakeRunner())
    app.add_api_route("/broken", broken)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        response = await client.get("/broken", headers={"X-Request-Id": "mine"})
    assert "X-Request-Id" in expect_error(response, 500, "internal")
    assert response.headers["x-request-id"] == "mine"
    assert "/secret/path" in caplog.text


def test_no_error_of_the_embedded_service_names_a_path(embedded_server: ServiceProcess) -> None:
    for body in (b"", b"RIFF" * 999, b"fLaC" + b"\xff" * 999, b"OggS" * 999, b"ID3" + b"\x00" * 99, b"\x1aE\xdf\xa3" * 99):
        response = httpx.post(f"{embedded_server.url}/v1/classify", content=body)
        expect_error(response, response.status_code, response.json()["error"]["code"])
        assert response.status_code in (400, 415, 422)


def test_a_stream_without_an_upgrade_is_told_what_it_is(fake_server: AppServer) -> None:
    response = httpx.get(f"{fake_server.url}/v1/stream")
    assert "ws://" in expect_error(response, 426, "upgrade_required")
    assert response.headers["upgrade"] == "websocket"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_may_be_asked_without_a_body(fake_server: AppServer, path: str) -> None:
    response = httpx.head(fake_server.url + path)
    assert (response.status_code, response.content) == (200, b"")


def test_text_in_place_of_sound_is_shown_as_text(fake_server: AppServer) -> None:
    message = expect_error(httpx.post(f"{fake_server.url}/v1/classify", content=b"just some text\n"), 415, "unsupported_audio")
    assert "'just some te'" in message
