"""`sonotag listen ADDRESS` against a real Icecast, HLS playlists, files over HTTP, and GStreamer's RTSP server."""

from __future__ import annotations

import io
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
from typing import Any

import pytest
import soundfile

from service import exit_codes
from tests.support.app_server import serving
from tests.support.command import TIMEOUT_SECONDS, run_sonotag, start_sonotag
from tests.support.icecast import running_icecast
from tests.support.process import ServiceProcess
from tests.support.rtsp import running_camera
from tests.support.shared import REPOSITORY

SPEECH = REPOSITORY / "examples" / "speech.wav"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Broken(Quiet):
    """States the length of a file and breaks off in the middle of it."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        data = source.read()
        outputfile.write(data[: len(data) // 2])


class Radio(Quiet):
    """Does not say how long a sound is, and has it only once."""

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        if not path.exists():
            self.send_error(404)
            return None
        sound = io.BytesIO(path.read_bytes())
        path.unlink()
        self.send_response(200)
        self.end_headers()
        return sound


@contextmanager
def web_server(folder: Path, handler: type[Quiet] = Quiet) -> Iterator[str]:
    """Serve a folder; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
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


def test_a_service_hears_from_who_waits_for_a_radio_longer_than_a_stream_may_be_idle(tmp_path: Path) -> None:
    """It is tried again until 3.5 s after it was lost; without a word in between the service would end the stream."""
    subprocess.run(
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(SPEECH), str(tmp_path / "x.aac")], check=True, timeout=60
    )
    with web_server(tmp_path, Radio) as radio, serving(idle_seconds=2) as service:
        done = run_sonotag("listen", "--give-up", "4", "--url", service.url, f"{radio}/x.aac", cwd=tmp_path)
    assert done.code == exit_codes.FAILURE
    assert re.search(r"x.aac: lost at 5\.[23]\d s: .*\n.*x.aac did not come back in 4 s: .*\n$", done.errors), done.errors
    assert re.match(r"5\.[23]\d s heard", done.output.splitlines()[-1])


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_playlist_is_listened_to_to_its_end(is_remote: bool, embedded_server: ServiceProcess, tmp_path: Path) -> None:
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(SPEECH), "-c:a", "aac", "-hls_time", "1"]
    subprocess.run([*command, "-hls_playlist_type", "vod", str(tmp_path / "x.m3u8")], check=True, timeout=60)
    flags = ("--url", embedded_server.url) if is_remote else ()
    with web_server(tmp_path) as address:
        done = run_sonotag("listen", "--pace", "0", *flags, f"{address}/x.m3u8", cwd=tmp_path)
    assert (done.code, done.errors) == (exit_codes.OK, "")
    assert "began Speech" in done.output
    assert re.match(r"5\.[23]\d s heard", done.output.splitlines()[-1])


def test_a_live_playlist_is_over_when_it_is_complete(tmp_path: Path) -> None:
    """The sender goes on until somebody has heard it, however long a model takes to load."""
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-stream_loop", "-1", "-re", "-i", str(SPEECH), "-c:a", "aac"]
    playlist = tmp_path / "x.m3u8"
    command += ["-hls_time", "1", "-hls_playlist_type", "event", str(playlist)]
    with subprocess.Popen(command) as sender, web_server(tmp_path) as address:
        try:
            while sender.poll() is None and not playlist.exists():
                time.sleep(0.05)
            with start_sonotag("listen", "--hop", "0.5", f"{address}/x.m3u8", cwd=tmp_path) as process:
                try:
                    until(process.stdout, "began Speech")
                    sender.send_signal(signal.SIGTERM)  # it completes the playlist
                    output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
                finally:
                    process.kill()
        finally:
            sender.kill()
    assert process.returncode == exit_codes.OK, errors
    assert b"ended Speech" in output
    assert errors.endswith(b"x.m3u8: it is over\n")


@pytest.mark.parametrize(("name", "is_remote"), [("x.wav", False), ("x.mp3", True), ("x.ogg", True), ("x.aac", True)])
def test_a_file_over_http_is_played_and_ends_as_one_that_lies_here(
    name: str, is_remote: bool, embedded_server: ServiceProcess, tmp_path: Path
) -> None:
    """Its seconds are an estimate, for an OGG one of 3.9 s where the server cannot seek; its bytes are counted."""
    subprocess.run(
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(SPEECH), str(tmp_path / name)], check=True, timeout=60
    )
    flags = ("--pace", "0", "--hop", "2", "--top-k", "1", *(("--url", embedded_server.url) if is_remote else ()))
    with web_server(tmp_path) as address:
        done = run_sonotag("listen", *flags, f"{address}/{name}", cwd=tmp_path)
    here = run_sonotag("listen", *flags, str(tmp_path / name), cwd=tmp_path)
    assert (done.code, done.errors) == (here.code, here.errors) == (exit_codes.OK, "")
    assert "ended Speech" in done.output
    assert re.match(r"5\.[23]\d s heard, 3 windows", done.output.splitlines()[-1])


def test_a_file_over_http_that_breaks_off_is_not_begun_again(tmp_path: Path) -> None:
    with web_server(SPEECH.parent, Broken) as address:
        done = run_sonotag("listen", "--pace", "0", f"{address}/{SPEECH.name}", cwd=tmp_path)
    assert done.code == exit_codes.FAILURE
    assert "ended Speech" in done.output
    assert re.fullmatch(r"sonotag listen: .*/speech.wav broke off at 2\.6\d s of 5\.24 s: .*\n", done.errors), done.errors


def test_a_camera_that_goes_away_and_comes_back_is_listened_to_again(tmp_path: Path) -> None:
    samples = soundfile.read(SPEECH, dtype="int16")[0]
    (tmp_path / "speech.raw").write_bytes(samples.tobytes())
    with running_camera(tmp_path / "speech.raw") as camera:
        process = start_sonotag("listen", "--hop", "0.5", camera.url, cwd=tmp_path)
        watchdog = threading.Timer(TIMEOUT_SECONDS, process.kill)  # a line that never comes must not hold the tests
        watchdog.start()
        try:
            until(process.stdout, "began Speech")
        except BaseException:
            process.kill()
            raise
    with process:
        try:
            lost = until(process.stderr, "lost at")
            with running_camera(tmp_path / "speech.raw", port=camera.port):
                back = until(process.stderr, "back,")
                process.send_signal(signal.SIGINT)
                output, errors = process.communicate()
        finally:
            process.kill()
            watchdog.cancel()
    assert (process.returncode, errors) == (exit_codes.OK, b"")
    assert re.search(rf"{camera.url}: lost at \d+\.\d\d s: ", lost)
    assert re.search(r"back, \d+\.\d s were not heard", back)
    assert "ended Speech" in output.decode()


def test_a_recording_over_rtsp_ends(embedded_server: ServiceProcess, tmp_path: Path) -> None:
    with running_camera(SPEECH) as camera:
        done = run_sonotag("listen", "--url", embedded_server.url, camera.url, cwd=tmp_path)
    assert (done.code, done.errors) == (exit_codes.OK, "")
    assert "ended Speech" in done.output
    assert re.match(r"5\.[23]\d s heard", done.output.splitlines()[-1])


def test_a_camera_without_sound_or_without_such_a_stream_ends_with_one_line(tmp_path: Path) -> None:
    with running_camera(None) as camera:
        silent = run_sonotag("listen", camera.url, cwd=tmp_path)
        missing = run_sonotag("listen", f"{camera.url.replace('//', '//user:secret@')}/other", cwd=tmp_path)
    gone = run_sonotag("listen", camera.url, cwd=tmp_path)
    unknown = run_sonotag("listen", "rtsp://user:secret@camera.invalid/live", cwd=tmp_path)
    assert unknown.code == exit_codes.FAILURE
    words = r"sonotag listen: rtsp://camera.invalid/live: the name camera.invalid cannot be resolved \(.+\)\n"
    assert re.fullmatch(words, unknown.errors), unknown.errors
    assert silent.code == missing.code == gone.code == exit_codes.FAILURE
    assert re.fullmatch(r"sonotag listen: rtsp://127\S*/live has no sound\n", silent.errors), silent.errors
    assert re.fullmatch(r"sonotag listen: rtsp://127\S*/live/other: .*not found\n", missing.errors, re.IGNORECASE)
    assert re.fullmatch(r"sonotag listen: rtsp://127\S*/live: Connection refused\n", gone.errors)


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
