"""A real RTSP server: GStreamer's, in a process of Debian's Python."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.programs import lack

MAX_SECONDS = 150
PYTHON = "/usr/bin/python3"
"""Debian packages GStreamer's bindings for its own interpreter only."""
PACKAGES = "gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good python3-gi"
_SCRIPT = Path(__file__).with_name("rtsp_camera.py")
_PROBE = "import gi; gi.require_version('GstRtspServer', '1.0')"


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera that can be listened to."""

    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"rtsp://127.0.0.1:{self.port}/live"


@contextmanager
def running_camera(sound: Path | None, *, port: int = 0) -> Iterator[Camera]:
    """Run a camera for as long as the context is open; without GStreamer the test is skipped, in CI it fails.

    Args:
        sound: A WAV file, to be played once for each who asks, or `.raw` samples, again and again; None for none.
        port: Where; 0 for a free one.
    """
    if subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, check=False, timeout=60).returncode:
        lack("GStreamer's RTSP server", PACKAGES)
    command = [PYTHON, str(_SCRIPT), str(sound or "-"), str(port)]
    # An environment of this one's Python is not for that one.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        # A line that never comes must not hold the tests.
        watchdog = threading.Timer(MAX_SECONDS, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            yield Camera(int(process.stdout.readline()))
        finally:
            watchdog.cancel()
            process.kill()
