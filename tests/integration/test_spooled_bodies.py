"""What the bodies of all requests may have on disk together (SONOTAG_MAX_SPOOLED_BODIES), on real servers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from service import exit_codes
from tests.support.app_server import AppServer, serving
from tests.support.process import running
from tests.support.raw_requests import knock, receive, send
from tests.support.rest import SPEECH, expect_error, expect_error_body, heard, until, wav

MEBIBYTE = 1024**2
LIMIT = 8 * MEBIBYTE
LONG = wav(heard((SPEECH, 1.0))) + bytes(5 * MEBIBYTE)
"""Five MiB on disk and a second of sound: bytes after the last chunk of a WAV file say nothing."""
SMALL = wav(heard((SPEECH, 1.0)))
PATHS = ["/v1/classify", "/v1/classify/batch", "/compat/huggingface"]


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serving(max_spooled_bodies=LIMIT, receive_timeout_seconds=1) as server:
        yield server


def is_refused(url: str, path: str = "/v1/classify") -> bool:
    answer = knock(url, path, 4 * MEBIBYTE)
    assert answer.status in (100, 503), answer
    return answer.status == 503


@pytest.mark.parametrize("path", PATHS)
def test_a_body_for_which_there_is_no_room_is_503_at_once_or_while_it_arrives(server: AppServer, path: str) -> None:
    with closing(send(server.url, path, LONG[:-1], len(LONG))):
        until(lambda: is_refused(server.url))
        refused = knock(server.url, path, 4 * MEBIBYTE)
        assert refused.status == 503  # and not 100 Continue
        assert refused.headers["retry-after"] == "10"
        message = expect_error_body(json.loads(refused.body)["error"], "no_room")
        assert message == (
            f"this body needs {4 * MEBIBYTE} bytes on disk, others have {len(LONG)}, and together they may have {LIMIT} "
            "(SONOTAG_MAX_SPOOLED_BODIES)"
        )
        pieces = (LONG[start : start + 65_536] for start in range(0, len(LONG), 65_536))
        chunked = httpx.post(server.url + path, content=pieces)
        assert chunked.request.headers["transfer-encoding"] == "chunked"
        assert "SONOTAG_MAX_SPOOLED_BODIES" in expect_error(chunked, 503, "no_room")
        assert chunked.headers["retry-after"] == "10"
        form = httpx.post(server.url + path, files={"file": LONG})
        expect_error(form, 503, "no_room")
        assert httpx.post(server.url + path, files={"file": SMALL}).status_code == 200, "what fits into memory needs no room"
    until(lambda: not is_refused(server.url))
    assert httpx.post(server.url + path, files={"file": LONG}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_the_room_of_a_body_is_free_again_however_its_request_ends(server: AppServer, path: str) -> None:
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    ends = [
        (408, LONG[:-1], {}),  # the rest never comes
        (400, part + bytes(5 * MEBIBYTE) + b"\r\n" + part.replace(b'"file"', b'"none"'), boundary),
        (200 if path == "/v1/classify/batch" else 415, bytes(len(LONG)), {}),  # each clip of a batch has its own error
        (413, b"%x\r\n" % (2 * LIMIT) + bytes(2 * LIMIT), {"Transfer-Encoding": "chunked"}),
    ]
    for status, body, headers in ends:
        length = len(LONG) if status == 408 else len(body)
        with closing(send(server.url, path, body, length, headers)) as connection:
            answer = receive(connection)
        assert answer.status == status, answer
        until(lambda: not is_refused(server.url))
    for _ in range(3):  # those who leave
        send(server.url, path, LONG[:-1], len(LONG)).close()
    until(lambda: not is_refused(server.url))
    until(lambda: not server.lifecycle.num_active)
    assert httpx.post(server.url + path, files={"file": LONG}).status_code == 200


def test_who_says_much_and_sends_nothing_takes_no_room(server: AppServer) -> None:
    connections = [send(server.url, "/v1/classify", b"", LIMIT) for _ in range(5)]
    try:
        until(lambda: server.lifecycle.num_active == 5)
        assert httpx.post(server.url + "/v1/classify", content=LONG).status_code == 200
    finally:
        for connection in connections:
            connection.close()


def test_a_body_that_is_longer_than_all_may_be_together_is_413_as_it_would_be_refused_for_ever(server: AppServer) -> None:
    answer = knock(server.url, length=LIMIT + 1)
    assert answer.status == 413
    message = expect_error_body(json.loads(answer.body)["error"], "body_too_large")
    assert message == f"the body has {LIMIT + 1} bytes, at most {LIMIT} are read (SONOTAG_MAX_SPOOLED_BODIES)"


def test_the_room_is_that_of_all_workers_together_and_what_a_dead_one_had_is_free_again(tmp_path: Path) -> None:
    environ = {"SONOTAG_WORKERS": "2", "SONOTAG_MAX_SPOOLED_BODIES": str(LIMIT)}
    with running("tests.support.fake_service", environ=environ, cwd=tmp_path) as service:
        url = service.wait_ready()
        with closing(send(url, "/v1/classify", LONG[:-1], len(LONG))) as holder:
            until(lambda: is_refused(url))
            assert all(is_refused(url) for _ in range(30)), "whichever worker is asked"
            for pid in service.children():
                os.kill(pid, signal.SIGKILL)
            with suppress(ConnectionResetError):
                assert holder.recv(1) == b""
        until(lambda: is_answered(url))
        assert service.end_cleanly() == exit_codes.OK


def is_answered(url: str) -> bool:
    """Return whether a body that needs the room is answered; there may be nobody who answers."""
    with suppress(httpx.TransportError):
        return httpx.post(url + "/v1/classify", content=LONG, timeout=60).status_code == 200
    return False
