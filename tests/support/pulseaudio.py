"""A microphone without hardware: a PulseAudio of the test's own, whose loudspeaker ALSA, and so PortAudio, listens to."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import find_library, find_program

DEVICE = "meeting room"
MAX_SECONDS = 150
_ALSA = """
pcm."{device}" {{ type pulse device "room.monitor" }}
pcm.!default {{ type pulse device "room.monitor" }}
ctl.!default {{ type pulse }}
"""


class Room:
    """A room with a loudspeaker and a microphone, which hears what the loudspeaker says, in time.

    Args:
        folder: Where its files are; a short path, since a socket's may have 107 characters.

    Attributes:
        environ: What a program needs to be in the room.
    """

    def __init__(self, folder: Path) -> None:
        server = find_program("pulseaudio")
        self._player = find_program("pacat", package="pulseaudio-utils")
        find_library("portaudio", package="libportaudio2")
        (folder / "asound.conf").write_text(_ALSA.format(device=DEVICE))
        self.environ: Mapping[str, str] = {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder),
            "PULSE_SERVER": f"unix:{folder}/native",
            "ALSA_CONFIG_PATH": f"{folder}/asound.conf",
        }
        options = ["-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes", "--realtime=no"]
        modules = ["-L", f"module-native-protocol-unix socket={folder}/native auth-anonymous=1"]
        modules += ["-L", "module-null-sink sink_name=room rate=48000 channels=2"]
        self._server = subprocess.Popen(
            [server, *options, "--high-priority=no", "--log-target=stderr", "--log-level=info", *modules],
            env=os.environ | self.environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        # A line that never comes must not hold the tests.
        self._watchdog = threading.Timer(MAX_SECONDS, self._server.kill)
        self._watchdog.start()
        assert self._server.stderr is not None
        if not any("Daemon startup complete" in line for line in self._server.stderr):
            raise AssertionError("PulseAudio ended before it was there")
        self._drain = threading.Thread(target=self._server.stderr.read)  # a full pipe would hold it
        self._drain.start()

    @contextmanager
    def playing(self, sound: Path) -> Iterator[None]:
        """Play a sound from its beginning, for as long as the context is open or it lasts."""
        command = [self._player, "--playback", "--file-format=wav", str(sound)]
        with subprocess.Popen(command, env=os.environ | self.environ, stderr=subprocess.DEVNULL) as player:
            try:
                yield
            finally:
                player.kill()

    def end(self) -> None:
        """Take everything out of the room; what listens loses its device."""
        self._watchdog.cancel()
        self._server.kill()
        self._server.wait()
        self._drain.join()
        assert self._server.stderr is not None
        self._server.stderr.close()


@contextmanager
def a_room(folder: Path) -> Iterator[Room]:
    """Have a room for as long as the context is open; without PulseAudio or PortAudio the test is skipped, in CI it fails."""
    room = Room(folder)
    try:
        yield room
    finally:
        room.end()
