"""A machine that runs out of something: the service says so, and works again as soon as there is some."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service import exit_codes
from service.child import python_module
from tests.integration.test_faults import clip
from tests.support.app_server import serving
from tests.support.process import clean_environ, running, running_command
from tests.support.rest import SPEECH, expect_error, flac, heard

APP = "tests.support.fake_service"
CLIP = flac(heard((SPEECH, 1.0)))
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


@pytest.mark.parametrize(("form", "workers"), [("body", "1"), ("multipart", "1"), ("body", "2")])
def test_a_full_disk_is_said_and_costs_only_bodies_that_need_it(
    small_disk: Path, tmp_path: Path, form: str, workers: str
) -> None:
    if workers != "1" and not Path("/dev/shm").is_dir():
        pytest.skip("the metrics of several workers have the disk alone")

    def classify(content: bytes) -> httpx.Response:
        if form == "body":
            return httpx.post(service.url + "/v1/classify", content=content, timeout=60)
        return httpx.post(service.url + "/v1/classify", files={"file": content}, timeout=60)

    with running(APP, cwd=tmp_path, environ={"TMPDIR": str(small_disk), "SONOTAG_WORKERS": workers}) as service:
        service.wait_ready()
        answer = classify(LONG)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        error = answer.json()["error"]
        assert (error["code"], error["retryable"]) == ("no_room", True)
        assert "No space left on device" in error["message"]
        assert classify(clip(1000)).status_code == 200, "what fits into memory needs no disk"
        remount(small_disk, "size=16m")
        assert classify(LONG).status_code == 200
        if workers == "1":  # a second worker may not have looked for its place yet, and finds another one now
            remount(small_disk, "ro")
            answer = classify(LONG)
            assert answer.status_code == 503
            assert "Read-only file system" in answer.json()["error"]["message"]
        assert service.end_cleanly() == exit_codes.OK
        assert "Traceback" not in service.stderr
        assert "a worker died" not in service.stderr


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_under_the_metrics_ends_no_worker_and_stops_those_that_begin(small_disk: Path, tmp_path: Path) -> None:
    environ = {"SONOTAG_WORKERS": "2", "PROMETHEUS_MULTIPROC_DIR": str(small_disk)}
    with running(APP, cwd=tmp_path, environ=environ) as service:
        assert service.wait() == exit_codes.START
        assert f"a worker's metrics need 512 KiB in {small_disk}: No space left on device" in service.stderr
        assert not list(small_disk.iterdir())
    remount(small_disk, "size=2m")
    with running(APP, cwd=tmp_path, environ=environ) as service:
        url = service.wait_ready()
        with pytest.raises(OSError, match="No space left"):
            (small_disk / "full").write_bytes(bytes(4 * 1024**2))
        for path in ("/", "/docs", "/v1/models", "/v1/models/none", "/v1/labels", "/v1/capacity", "/none", "/health/live"):
            for method in ("GET", "POST", "DELETE"):  # series that do not exist yet
                assert httpx.request(method, url + path).status_code < 500
        assert httpx.post(url + "/v1/classify", content=clip(1000), timeout=60).status_code == 200
        assert "a worker died" not in service.stderr
        os.kill(service.children()[0], signal.SIGKILL)
        service.wait_for_line("a worker died")
        service.wait_for_line("a worker's metrics need 512 KiB .*: No space left on device")
        assert "sonotag_workers_ready 1.0" in httpx.get(url + "/metrics").text
        remount(small_disk, "size=4m")
        pages = (httpx.get(url + "/metrics").text for _ in range(100_000))
        assert any("sonotag_workers_ready 2.0" in page for page in pages), "it is tried again"
        assert service.end_cleanly() == exit_codes.OK


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
        assert ask_when_there_is_room(service.url + "/v1/classify").status_code == 200
        service.send_signal(signal.SIGTERM)
        assert service.wait() == exit_codes.OK


def ask_when_there_is_room(url: str) -> httpx.Response:
    """Ask over new connections until one is taken: those that were closed are noticed one after the other."""
    for _ in range(200):
        with suppress(httpx.TransportError):
            return httpx.post(url, content=clip(1000), timeout=60)
    raise AssertionError("no connection was taken any more")


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
