"""A machine that runs out of something: the service says so, and works again as soon as there is some."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service import exit_codes
from service.child import python_module
from tests.integration.test_faults import clip
from tests.support.app_server import serving
from tests.support.process import clean_environ, running, running_command
from tests.support.rest import SPEECH, expect_error, heard, wav

APP = "tests.support.fake_service"
CLIP = wav(heard((SPEECH, 1.0)))
LONG = clip(1000, 60)
"""Longer than what stays in memory."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("form", ["body", "multipart"])
def test_a_full_disk_is_said_and_costs_only_bodies_that_need_it(small_disk: Path, tmp_path: Path, form: str) -> None:
    def classify(content: bytes) -> httpx.Response:
        if form == "body":
            return httpx.post(service.url + "/v1/classify", content=content, timeout=60)
        return httpx.post(service.url + "/v1/classify", files={"file": content}, timeout=60)

    with running(APP, cwd=tmp_path, environ={"TMPDIR": str(small_disk)}) as service:
        service.wait_ready()
        answer = classify(LONG)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        error = answer.json()["error"]
        assert (error["code"], error["retryable"]) == ("no_room", True)
        assert "No space left on device" in error["message"]
        assert classify(clip(1000)).status_code == 200, "what fits into memory needs no disk"
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
        assert classify(LONG).status_code == 200
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        answer = classify(LONG)
        assert answer.status_code == 503
        assert "Read-only file system" in answer.json()["error"]["message"]
        assert service.end_cleanly() == exit_codes.OK
        assert "Traceback" not in service.stderr


def test_connections_past_the_limit_of_descriptors_are_closed_and_others_go_on(tmp_path: Path) -> None:
    child = python_module(APP, environ=clean_environ())
    command = ["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *child.command]
    with running_command(command, environ=child.environ, cwd=tmp_path) as service:
        address = urlsplit(service.wait_ready())
        with ExitStack() as stack:
            client = stack.enter_context(httpx.Client(base_url=service.url))
            assert client.get("/health/live").status_code == 200
            sockets = [stack.enter_context(socket.create_connection((address.hostname, address.port))) for _ in range(100)]
            closed, _, _ = select.select(sockets, [], [], 30)
            assert closed, "at once, rather than left to wait"
            assert client.get("/health/live").status_code == 200, "what was open goes on"
        assert httpx.post(service.url + "/v1/classify", content=clip(1000), timeout=60).status_code == 200
        service.send_signal(signal.SIGTERM)
        assert service.wait() == exit_codes.OK


def test_a_clip_for_which_no_descriptor_is_left_is_told_so_and_not_that_it_is_too_long() -> None:
    with serving() as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/v1/classify", content=CLIP).status_code == 200, "the connection is there, and a decoder"
        with no_descriptors():
            answer = client.post("/v1/classify", content=CLIP)
        message = expect_error(answer, 503, "no_room")
        assert "decoder" in message
        assert "Too many open files" in message
        assert client.post("/v1/classify", content=CLIP).status_code == 200


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process, and so the server in it, open nothing more."""
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
