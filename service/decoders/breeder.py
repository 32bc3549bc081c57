"""The process that decoder processes are copies of, started as ``python -m service.decoders.breeder FD``.

It loads every library, decodes a little with each, and then waits: a copy of it is ready in milliseconds where a new
interpreter takes half a second, and shares its memory. It reads no stranger's byte, has one thread, and ends when the service
does: signals that the terminal or the service manager sends to the whole group are for the service, which still drains.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import sys
from typing import NoReturn

import av
import numpy as np
import soundfile

from service.audio.decoding import open_audio
from service.audio.intake import file_samples
from service.decoders.confinement import confine, find_gaps
from service.decoders.wire import Wire
from service.decoders.worker import run_decoder
from service.errors import ServiceError

REQUEST = struct.Struct("<Q")
"""Asks for a decoder with so many bytes of memory; with it come its socket and the pipe that is told how it ended."""
ANSWER = struct.Struct("<i")
"""Its process id; where the system lets none be made, the number of the error, below zero."""
STATUS = struct.Struct("<i")
"""What `waitpid` says of it."""
_PROBE_MEMORY_BYTES = 64 * 1024 * 1024


def main() -> None:
    """Serve requests for decoders until the service closes its end."""
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    _load_libraries()
    gc.collect()
    gc.freeze()  # the collector would write into pages that are shared with every copy
    # The service may be gone by then: its start failed, which it has said.
    with contextlib.suppress(ConnectionError):
        control.sendall(json.dumps(_probe_confinement()).encode() + b"\n")
        _breed(control)


def _breed(control: socket.socket) -> None:
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else _nonblocking_pipe()
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    status_fds: dict[int, int] = {}
    sources: list[socket.socket | int] = [control, woken]
    while True:
        readable, _, _ = select.select(sources, [], [])
        if woken in readable:
            os.read(woken, 4096)
            _bury(status_fds)
        if control not in readable:
            continue
        request, fds, _, _ = socket.recv_fds(control, REQUEST.size, 2)
        if len(request) < REQUEST.size:
            return
        pid = _fork_decoder(REQUEST.unpack(request)[0], fds)
        if pid > 0:
            status_fds[pid] = fds.pop()
        for fd in fds:
            os.close(fd)
        control.sendall(ANSWER.pack(pid))


def _fork_decoder(memory_bytes: int, fds: list[int]) -> int:
    """Make a decoder that has the first of two descriptors; return what `ANSWER` says."""
    if len(fds) != 2:  # the kernel drops those for which this process has no number left
        return -errno.EMFILE
    try:
        pid = os.fork()
    except OSError as error:
        return -(error.errno or errno.EAGAIN)
    if pid == 0:
        _become_decoder(fds[0], memory_bytes)
    return pid


def _nonblocking_pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _bury(status_fds: dict[int, int]) -> None:
    """Take leave of every decoder that ended, and say how."""
    while status_fds:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        fd = status_fds.pop(pid)
        with contextlib.suppress(OSError):  # the service does not want to know
            os.write(fd, STATUS.pack(status))
        os.close(fd)


def _become_decoder(decoder_fd: int, memory_bytes: int) -> NoReturn:
    """Never returns: what is further up the stack is the breeder's."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Of all that the breeder holds it keeps its socket: not even standard error, where a library would let a stranger's
        # bytes speak.
        os.dup2(decoder_fd, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 65_536)
        os.dup2(1, 2)
        wire = Wire(socket.socket(fileno=3))
        with contextlib.suppress(OSError):  # `_probe_confinement` has told: the limits are in force, there is no filter
            confine(memory_bytes)
        run_decoder(wire)
        code = 0
    except (OSError, EOFError):
        code = 0  # the service has gone, or does not want it any more
    finally:
        os._exit(code)


def _load_libraries() -> None:
    """Decode something with every library: what they load or allocate once is in every copy then.

    Some of it is opened by name, which a decoder cannot do any more.
    """
    # PyAV imports a module where it first meets a stream of that kind, be it of subtitles in a damaged FLV.
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    sound = np.zeros(16_000, np.float32)
    for container, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")):
        file = io.BytesIO()
        soundfile.write(file, sound, 44_100, format=container, subtype=subtype)
        with open_audio(file, channel=None) as audio:
            for _ in file_samples(audio, 16_000):
                pass
    for broken in (b"fLaC" + bytes(1000), b"no sound"):
        try:
            open_audio(io.BytesIO(broken), channel=None)
        except ServiceError:
            continue


def _probe_confinement() -> list[str]:
    """Confine a copy and return what does not hold there, in words."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        missing = ["it could not be tried"]
        try:
            reason = ""
            try:
                confine(_PROBE_MEMORY_BYTES)
            except OSError as error:
                reason = f" ({error.strerror})"
            missing = [what + reason for what in find_gaps(_PROBE_MEMORY_BYTES)]
        finally:
            os.write(write_end, json.dumps(missing).encode())
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        told: list[str] = json.loads(pipe.read() or b'["it could not be tried"]')
    os.waitpid(pid, 0)
    return told


if __name__ == "__main__":
    main()
