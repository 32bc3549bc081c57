"""`sonotag listen ADDRESS` against a real Icecast and a real HLS playlist."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from service import exit_codes
from tests.support.command import TIMEOUT_SECONDS, run_sonotag, start_sonotag
from tests.support.icecast import running_icecast
from tests.support.process import ServiceProcess
from tests.support.shared import REPOSITORY

SPEECH = REPOSITORY / "examples" / "speech.wav"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def until(pipe: object, words: str) -> str:
    """Return the first line with these words."""
    for line in pipe:  # type: ignore[attr-defined]
        if words in line.decode():
            return str(line.decode())
    raise AssertionError(f"it ended without {words!r}")


def test_a_radio_that_breaks_off_is_listened_to_again(tmp_path: Path) -> None:
    with running_icecast(tmp_path) as radio:
        with radio.broadcasting(SPEECH):
            process = start_sonotag("listen", "--hop", "0.5", radio.url, cwd=tmp_path)
            watchdog = threading.Timer(TIMEOUT_SECONDS, process.kill)  # a line that never comes must not hold the tests
            watchdog.start()
            try:
                until(process.stdout, "Speech")
            except BaseException:
                process.kill()
                raise
        with process:
            try:
                lost = until(process.stderr, "lost at")
                with radio.broadcasting(SPEECH):
                    back = until(process.stderr, "back,")
                    process.send_signal(signal.SIGINT)
                    assert process.stdout is not None
                    last = process.stdout.read().decode().splitlines()[-1]
                    assert process.wait(60) == exit_codes.OK
            finally:
                process.kill()
                watchdog.cancel()
    assert re.search(rf"{radio.url}: lost at \d+\.\d\d s: ", lost)
    assert re.search(r"back, \d+\.\d s were not heard", back)
    assert re.fullmatch(r"\d+\.\d\d s heard, .*", last)


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_playlist_is_listened_to_to_its_end(is_remote: bool, embedded_server: ServiceProcess, tmp_path: Path) -> None:
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(SPEECH), "-c:a", "aac", "-hls_time", "1"]
    subprocess.run([*command, "-hls_playlist_type", "vod", str(tmp_path / "x.m3u8")], check=True, timeout=60)
    flags = ("--url", embedded_server.url) if is_remote else ()
    with web_server(tmp_path) as address:
        done = run_sonotag("listen", "--on-lag", "wait", *flags, f"{address}/x.m3u8", cwd=tmp_path)
    assert (done.code, done.errors) == (exit_codes.OK, "")
    assert "began Speech" in done.output
    assert re.match(r"5\.[23]\d s heard", done.output.splitlines()[-1])


def test_a_live_playlist_is_over_when_it_is_complete(tmp_path: Path) -> None:
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-i", str(SPEECH), "-c:a", "aac", "-hls_time", "1"]
    playlist = tmp_path / "x.m3u8"
    with subprocess.Popen([*command, "-hls_playlist_type", "event", str(playlist)]) as sender, web_server(tmp_path) as address:
        try:
            while sender.poll() is None and not playlist.exists():
                time.sleep(0.05)
            done = run_sonotag("listen", "--hop", "0.5", f"{address}/x.m3u8", cwd=tmp_path)
        finally:
            sender.kill()
    assert done.code == exit_codes.OK, done.errors
    assert "Speech" in done.output
    assert done.errors.endswith("x.m3u8: it is over\n")


@pytest.mark.parametrize("is_remote", [False, True])
def test_an_address_at_which_nothing_is_ends_with_one_line(
    is_remote: bool, embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("no sound " * 1000)
    flags = ("--url", embedded_server.url) if is_remote else ()
    with web_server(tmp_path) as address:
        missing = run_sonotag("listen", *flags, f"{address.replace('//', '//user:secret@')}/missing.ogg", cwd=tmp_path)
        text = run_sonotag("listen", *flags, f"{address}/text.txt", cwd=tmp_path)
    assert missing.code == text.code == exit_codes.FAILURE
    assert re.fullmatch(r"sonotag listen: http://127[^@]*/missing.ogg: .*not found\n", missing.errors, re.IGNORECASE)
    assert re.fullmatch(r"sonotag listen: http://.*/text.txt has no sound\n", text.errors)


@pytest.mark.parametrize("flags", [("--give-up", "-1"), ("--encoding", "s16le", "--sample-rate", "8000")])
def test_flags_that_do_not_go_with_an_address_are_wrong_usage(flags: tuple[str, ...], tmp_path: Path) -> None:
    done = run_sonotag("listen", *flags, "http://127.0.0.1:1/x", cwd=tmp_path)
    assert (done.code, done.output) == (exit_codes.USAGE, "")
