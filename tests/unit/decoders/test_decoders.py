from __future__ import annotations

import contextlib
import io
import itertools
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile

from service.audio.intake import ContainerIntake
from service.child import KEPT_VARIABLES, ONE_THREAD
from service.decoders.interface import LocalDecoders
from service.decoders.jobs import Job, ProcessSound, ProcessStream
from service.decoders.nursery import KEPT_MEMORY, DecoderProcess, Nursery
from service.decoders.pool import MAX_JOBS, DecoderLimits, DecoderPool
from service.decoders.wire import MAX_PAYLOAD_BYTES, FileJob, Kind, Opened, Wire, share_file
from service.errors import (
    DecodingFailed,
    InvalidParameter,
    QueueFull,
    ServiceError,
    Unavailable,
    UndecodableAudio,
    UnsupportedAudio,
)
from service.observer import DecoderFailure
from tests.support.app_server import shared_nursery
from tests.support.sounds import Int16Array, noise, take_in

RATE = 16_000
MEMORY_BYTES = 256 * 1024**2
LIMITS = DecoderLimits(max_files=1, max_streams=1, timeout_seconds=30.0, memory_bytes=MEMORY_BYTES, wait_seconds=30.0)


def nothing(*_: object) -> None:
    """Observes, and takes back."""


@pytest.fixture
def failures() -> list[DecoderFailure]:
    return []


@pytest.fixture
def pool(failures: list[DecoderFailure]) -> Iterator[DecoderPool]:
    pool = DecoderPool(LIMITS, shared_nursery(), failures.append)
    yield pool
    pool.close()


@pytest.fixture
def process() -> Iterator[DecoderProcess]:
    process = shared_nursery().make(MEMORY_BYTES)
    yield process
    process.kill()
    process.close()


def encoded(container: str, subtype: str, seconds: float = 3.0, rate: int = 44_100) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise(seconds, rate), rate, format=container, subtype=subtype)
    return file.getvalue()


def read(decoders: DecoderPool | LocalDecoders, file: IO[bytes], channel: int | None = None) -> Int16Array:
    sound = decoders.open_file(file, channel=channel, target_rate=RATE, observe=nothing)
    try:
        return np.concatenate([np.zeros(0, np.int16), *sound.samples()])
    finally:
        sound.close()


def open_in(
    process: DecoderProcess, data: bytes, failures: list[DecoderFailure], timeout_seconds: float = 30.0
) -> ProcessSound:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        job = Job(process, timeout_seconds, failures.append, nothing)
        return ProcessSound(job, share_file(file.fileno()), channel=None, target_rate=RATE, observe=nothing)


@pytest.mark.parametrize(("container", "subtype"), [("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_a_file_sounds_the_same_in_a_process_and_in_this_one(container: str, subtype: str, pool: DecoderPool) -> None:
    data = encoded(container, subtype)
    expected = read(LocalDecoders(), io.BytesIO(data))
    np.testing.assert_array_equal(read(pool, io.BytesIO(data)), expected)
    with tempfile.SpooledTemporaryFile(max_size=2**20) as small, tempfile.SpooledTemporaryFile(max_size=1) as large:
        for spooled in (small, large):
            spooled.write(data)
            np.testing.assert_array_equal(read(pool, spooled), expected)


def test_a_stream_sounds_the_same_in_a_process_and_as_the_file(pool: DecoderPool) -> None:
    data = encoded("OGG", "VORBIS")
    expected = read(pool, io.BytesIO(data))
    for cuts in ([], [1, 2, 3, 1000, 5000], list(range(0, len(data), 700))):
        intake = ContainerIntake(channel=None, target_rate=RATE, make_decoder=pool.stream_decoder)
        np.testing.assert_array_equal(take_in(intake, data, cuts), expected)
        assert (intake.sample_rate, intake.channels) == (44_100, 1)


def test_what_is_pushed_to_a_stream_comes_out_before_more_is_pushed(pool: DecoderPool) -> None:
    data = encoded("FLAC", "PCM_16", 10.0, RATE)
    intake = ContainerIntake(channel=None, target_rate=RATE, make_decoder=pool.stream_decoder)
    assert sum(map(len, intake.push(data[: len(data) // 2]))) > 2 * RATE, "FFmpeg looks ten frames of FLAC ahead"
    assert list(intake.push(b"")) == []
    assert sum(map(len, intake.push(data[len(data) // 2 :]))) > 4 * RATE
    intake.close()
    assert list(intake.push(data)) == list(intake.finish()) == []


@pytest.mark.parametrize(
    ("data", "channel", "error"),
    [
        (b"no sound at all", None, UnsupportedAudio),
        (b"fLaC" + bytes(1000), None, UndecodableAudio),
        (encoded("WAV", "PCM_16"), 5, InvalidParameter),
        (b"", None, UnsupportedAudio),
    ],
)
def test_an_error_in_a_process_is_the_one_of_this_process_and_the_process_goes_on(
    data: bytes, channel: int | None, error: type[ServiceError], pool: DecoderPool, failures: list[DecoderFailure]
) -> None:
    told = []
    for decoders in (LocalDecoders(), pool):
        with pytest.raises(error) as caught:
            read(decoders, io.BytesIO(data), channel)
        told.append((caught.value.message, caught.value.param))
    assert told[0] == told[1]
    assert len(read(pool, io.BytesIO(encoded("WAV", "PCM_16")))) == 3 * RATE
    assert failures == []


def test_a_decoder_that_hangs_is_ended(process: DecoderProcess, failures: list[DecoderFailure]) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(DecodingFailed, match=r"no sound came for 0.1 s \(SONOTAG_DECODE_TIMEOUT_SECONDS\)"):
        open_in(process, encoded("WAV", "PCM_16"), failures, timeout_seconds=0.1)
    assert process.how_it_ended() is signal.SIGKILL
    assert failures == ["time"]


def test_a_decoder_that_crashes_costs_its_file_alone(process: DecoderProcess, failures: list[DecoderFailure]) -> None:
    sound = open_in(process, encoded("WAV", "PCM_16", 300.0), failures)
    samples = sound.samples()
    next(samples)
    os.kill(process.pid, signal.SIGSEGV)
    with pytest.raises(DecodingFailed, match="the decoder crashed"):
        list(samples)
    assert failures == ["crash"]


def test_a_decoder_that_somebody_ended_while_it_was_idle_costs_nothing(pool: DecoderPool) -> None:
    clip = encoded("WAV", "PCM_16")
    expected = read(pool, io.BytesIO(clip))
    [idle] = pool.idle_pids
    pid_fd = os.pidfd_open(idle)
    os.kill(idle, signal.SIGKILL)
    assert select.select([pid_fd], [], [], 30)[0]
    os.close(pid_fd)
    np.testing.assert_array_equal(read(pool, io.BytesIO(clip)), expected)


def test_cpu_time_is_limited_for_each_job(process: DecoderProcess) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(encoded("FLAC", "PCM_16", 600.0, 8_000))
        file.flush()
        process.grant_cpu(0.001)  # the kernel counts whole seconds
        while not process.has_ended():
            job = FileJob(channel=None, target_rate=192_000).model_dump_json().encode()
            try:
                process.wire.send(Kind.FILE, job, fd=share_file(file.fileno()))
                while process.wire.receive()[0] is not Kind.DONE:
                    pass
            except (EOFError, OSError):
                break
    assert process.how_it_ended() is signal.SIGXCPU


def test_idle_processes_that_nothing_needs_are_ended_but_one(pool: DecoderPool) -> None:
    clip = encoded("WAV", "PCM_16", 0.1)
    opened = [pool.open_file(io.BytesIO(clip), channel=None, target_rate=RATE, observe=nothing) for _ in range(3)]
    for sound in opened:
        list(sound.samples())
        sound.close()
    pool.trim()
    assert len(pool.idle_pids) == 3, "all were needed since the call before"
    last = pool.idle_pids[-1]
    read(pool, io.BytesIO(clip))
    pool.trim()
    assert pool.idle_pids == [last], "one file after the other needs one"
    pool.trim()
    assert pool.idle_pids == [last], "one is always ready"


def test_a_process_is_replaced_after_many_files(pool: DecoderPool) -> None:
    clip = encoded("WAV", "PCM_16", 0.1)
    pids = []
    for _ in range(MAX_JOBS + 1):
        read(pool, io.BytesIO(clip))
        pids += pool.idle_pids
    assert len(set(pids)) == 2, "the last one of the first process leaves none idle"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_what_makes_the_processes_is_started_again() -> None:
    nursery = Nursery()
    try:
        first = nursery.make(MEMORY_BYTES)
        os.kill(parent_of(first.pid), signal.SIGKILL)
        second = nursery.make(MEMORY_BYTES)
        for process in (first, second):
            assert open_in(process, encoded("WAV", "PCM_16"), []).num_frames == 3 * 44_100
            process.close()
    finally:
        nursery.close()


@contextmanager
def descriptors_left(pid: int, number: int) -> Iterator[None]:
    """Let a process open so many descriptors more for as long as the context is open."""
    free = (fd for fd in itertools.count() if not Path(f"/proc/{pid}/fd/{fd}").exists())
    lowest = next(itertools.islice(free, number, None))
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def num_open(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("number", [0, 1])
def test_what_makes_the_processes_outlives_a_want_of_descriptors(number: int) -> None:
    nursery = Nursery()
    try:
        first = nursery.make(MEMORY_BYTES)
        breeder = parent_of(first.pid)
        before = num_open(breeder)
        with descriptors_left(breeder, number):
            for _ in range(3):
                with pytest.raises(Unavailable, match=r"no process be made to decode in \(Too many open files\); try again"):
                    nursery.make(MEMORY_BYTES)
        second = nursery.make(MEMORY_BYTES)
        assert parent_of(second.pid) == breeder
        assert num_open(breeder) == before + 1, "nothing of those that were refused is left"
        for process in (first, second):
            assert open_in(process, encoded("WAV", "PCM_16"), []).num_frames == 3 * 44_100
            process.close()
    finally:
        nursery.close()


def test_a_service_without_descriptors_does_not_end_what_makes_the_processes() -> None:
    nursery = Nursery()
    try:
        first = nursery.make(MEMORY_BYTES)
        for number in (0, 2):
            with descriptors_left(os.getpid(), number), pytest.raises(Unavailable) as refused:
                nursery.make(MEMORY_BYTES)
            assert "Too many open files" in refused.value.message
        second = nursery.make(MEMORY_BYTES)
        assert parent_of(second.pid) == parent_of(first.pid)
        for process in (first, second):
            process.close()
    finally:
        nursery.close()


def test_a_decoder_has_no_secret_of_the_services_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {name: f"{name.lower()}-hunter2" for name in ("AWS_SECRET_ACCESS_KEY", "SONOTAG_TOKEN_SECRET", "PYTHON_API_KEY")}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TZ", "Europe/Vienna")
    nursery = Nursery()
    try:
        process = nursery.make(MEMORY_BYTES)
        variables = dict(text.split("=", 1) for text in Path(f"/proc/{process.pid}/environ").read_text().split("\0") if text)
        assert set(variables) <= {*KEPT_VARIABLES, *ONE_THREAD, *KEPT_MEMORY}
        assert (variables["PATH"], variables["TZ"]) == (os.environ["PATH"], "Europe/Vienna")
        memory = writable_memory(process.pid)
        assert b"Europe/Vienna" in memory, "its os.environ is there"
        for value in secrets.values():
            assert value.encode() not in memory
        process.close()
    finally:
        nursery.close()


def writable_memory(pid: int) -> bytes:
    """Return what another process has in memory, libraries left out."""
    maps = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    borders = [[int(border, 16) for border in fields[0].split("-")] for fields in maps if fields[1].startswith("rw")]
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        return b"".join(os.pread(memory.fileno(), end - start, start) for start, end in borders)


OPENED = Opened(container="wav", sample_rate=RATE, channels=1).model_dump_json().encode()


def message(kind: int, payload: bytes = b"") -> bytes:
    return bytes([kind]) + len(payload).to_bytes(4, "little") + payload


@pytest.mark.parametrize(
    "lies",
    [
        b"\xff" + bytes(4),
        bytes([Kind.OPENED]) + (MAX_PAYLOAD_BYTES + 1).to_bytes(4, "little"),
        message(Kind.OPENED, b"{"),
        message(Kind.OPENED, b'{"container":"wav","sample_rate":"x","channels":1}'),
        message(Kind.DONE),
        message(Kind.WANTED),
        message(Kind.FAILED, b'{"code":"not_found","message":""}'),
        message(Kind.FAILED, b'{"code":"memory","message":"' + b"x" * 2000 + b'"}'),
        message(Kind.OPENED, OPENED) + message(Kind.BLOCK, b"12"),
        message(Kind.OPENED, OPENED) + message(Kind.BLOCK, bytes(25)),
        message(Kind.OPENED, OPENED) + message(Kind.WANTED),
        message(Kind.OPENED, OPENED),
        b"",
    ],
)
def test_nothing_that_a_decoder_says_is_believed(lies: bytes, failures: list[DecoderFailure]) -> None:
    """What a decoder that a file took over might say, by a process that says it."""
    ours, theirs = socket.socketpair()
    script = "import os, sys; os.write(int(sys.argv[1]), bytes.fromhex(sys.argv[2])); os.read(0, 1)"
    liar = subprocess.Popen(
        [sys.executable, "-c", script, str(theirs.fileno()), lies.hex()],
        stdin=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    status_fd, told_fd = os.pipe()
    os.close(told_fd)
    process = DecoderProcess(liar.pid, Wire(ours), status_fd)
    assert liar.stdin is not None
    with liar, contextlib.ExitStack() as stack:
        stack.callback(process.close)
        if lies in (b"", message(Kind.OPENED, OPENED)):
            liar.stdin.close()  # it ends without another word
        with pytest.raises(DecodingFailed):
            list(open_in(process, b"", failures).samples())
    assert failures == ["crash"]


def test_a_bug_in_a_decoder_is_our_own_fault() -> None:
    ours, theirs = socket.socketpair()
    status_fd, told_fd = os.pipe()
    os.close(told_fd)
    # Not this process: whoever is given a job is given an end of its CPU time with it.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as idle, theirs:
        process = DecoderProcess(idle.pid, Wire(ours), status_fd)
        theirs.sendall(message(Kind.FAILED, b'{"code":"bug","message":"KeyError: 1"}'))
        with pytest.raises(ServiceError) as caught:
            open_in(process, b"", [])
        process.close()
    assert (caught.value.code, "KeyError" in caught.value.message) == ("internal", False)


async def test_files_wait_for_their_turn_in_a_line_of_bounded_length() -> None:
    pool = DecoderPool(
        DecoderLimits(max_files=1, max_streams=1, timeout_seconds=1.0, memory_bytes=MEMORY_BYTES, wait_seconds=0.01),
        shared_nursery(),
        nothing,
    )
    async with pool.turn():
        with pytest.raises(QueueFull, match=r"none was done in 0\.01 s"):
            async with pool.turn():
                pass
    async with pool.turn():
        pass


def test_streams_of_containers_have_a_limit_of_their_own(pool: DecoderPool) -> None:
    first, second = pool.stream_decoder(channel=None), pool.stream_decoder(channel=None)
    first.start("flac")
    with pytest.raises(QueueFull, match="the limit is 1"):
        second.start("flac")
    first.close()
    second.start("flac")
    second.close()


def test_a_stream_is_closed_while_its_decoder_is_waited_for(process: DecoderProcess) -> None:
    released = threading.Event()
    stream = ProcessStream(lambda: Job(process, 60.0, nothing, lambda *_: released.set()), channel=None)
    stream.start("flac")
    stream.push(b"fLaC")
    os.kill(process.pid, signal.SIGSTOP)
    taken: list[object] = []
    taker = threading.Thread(target=lambda: taken.append(stream.take()))
    taker.start()
    stream.close()
    taker.join(30)
    assert taken == [None]
    assert released.wait(30)


def test_a_stream_in_a_process_ends_with_its_error_each_time(pool: DecoderPool) -> None:
    stream = pool.stream_decoder(channel=None)
    stream.start("flac")
    stream.push(b"fLaC" + bytes(1_000))
    stream.end()
    for _ in range(2):
        with pytest.raises(UndecodableAudio):
            stream.take()
    stream.close()


def test_a_decoder_can_do_nothing_but_decode() -> None:
    script = (
        "from service.decoders.confinement import confine, find_gaps; confine(64 << 20); print(find_gaps(64 << 20), flush=True)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert told.stdout == "[]\n", told.stderr
