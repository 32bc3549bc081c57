"""A real Icecast and a source client that feeds it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import find_program

PASSWORD = "hackme"
MAX_SECONDS = 150
_CONFIGURATION = """<icecast>
  <limits><sources>2</sources><source-timeout>5</source-timeout><burst-on-connect>0</burst-on-connect></limits>
  <authentication>
    <source-password>{password}</source-password><admin-user>admin</admin-user><admin-password>{password}</admin-password>
  </authentication>
  <hostname>localhost</hostname>
  <listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
  <paths>
    <basedir>/usr/share/icecast2</basedir><webroot>/usr/share/icecast2/web</webroot>
    <adminroot>/usr/share/icecast2/admin</adminroot><logdir>{folder}</logdir>
  </paths>
  <logging><accesslog>-</accesslog><errorlog>-</errorlog><loglevel>3</loglevel></logging>
  <security><chroot>0</chroot>{owner}</security>
</icecast>
"""
_AS_ANOTHER = "<changeowner><user>nobody</user><group>nogroup</group></changeowner>"
"""Icecast does not run as root."""


class Icecast:
    """A running Icecast.

    Args:
        program: Where it is installed.
        folder: Where its configuration is written.
    """

    def __init__(self, program: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        configuration = folder / "icecast.xml"
        owner = _AS_ANOTHER if os.getuid() == 0 else ""
        configuration.write_text(_CONFIGURATION.format(password=PASSWORD, port=self.port, folder=folder, owner=owner))
        self._process = subprocess.Popen(
            [program, "-c", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # A line that never comes must not hold the tests.
        self._watchdog = threading.Timer(MAX_SECONDS, self._process.kill)
        self._watchdog.start()
        self._wait_for("server started")
        self.url = f"http://127.0.0.1:{self.port}/live.ogg"

    @contextmanager
    def broadcasting(self, sound: Path) -> Iterator[None]:
        """Send a sound to it again and again at real speed; return when it can be listened to."""
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(sound)]
        command += ["-c:a", "libvorbis", "-content_type", "application/ogg", "-f", "ogg", "-page_duration", "100000"]
        target = f"icecast://source:{PASSWORD}@127.0.0.1:{self.port}/live.ogg"
        with subprocess.Popen([*command, target], stderr=subprocess.PIPE) as sender:
            try:
                self._wait_for("seen initial vorbis header")
                yield
            finally:
                sender.kill()

    def _wait_for(self, words: str) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if words in line:
                return
        raise AssertionError(f"Icecast ended without saying {words!r}")

    def end(self) -> None:
        """End it."""
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()


@contextmanager
def running_icecast(folder: Path) -> Iterator[Icecast]:
    """Run an Icecast for as long as the context is open; where none is installed the test is skipped, in CI it fails."""
    server = Icecast(find_program("icecast2"), folder)
    try:
        yield server
    finally:
        server.end()
