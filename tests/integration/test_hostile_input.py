"""What strangers send to a real server: broken files, slow senders, floods. Each gets a result or a documented error."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import platform
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from service import exit_codes
from tests.fuzz.corpus import damaged, greedy_mp4, hungry_mp4, real_files, special_files, wav_file
from tests.support.app_server import AppServer, serving
from tests.support.no_seccomp import PRCTL
from tests.support.process import running
from tests.support.raw_requests import receive
from tests.support.readme import service_errors
from tests.support.runners import level
from tests.support.sounds import encode, tone
from tests.support.websocket import stream_pieces, stream_url

DOCUMENTED = {(error.code, error.http_status) for error in service_errors()} - {("internal", 500)}
CLOSES = {(error.code, error.close_code) for error in service_errors()} - {("internal", 1011)}
CLIP = wav_file(samples=level(1, 16_000).tobytes())
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serving(max_clip_seconds=60, decode_timeout_seconds=20, decoder_memory_bytes=256 * 1024**2) as running:
        yield running


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[AppServer]:
    with serving(receive_timeout_seconds=0.2, max_messages_per_second=1, max_container_streams=1) as running:
        yield running


@pytest.fixture(scope="module")
def broken_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        files = real_files(Path(folder), 0.5)
    broken = special_files(files)
    for seed, (name, data) in enumerate(files.items()):
        broken |= {f"{name}, damaged {index}": variant for index, variant in enumerate(damaged(data, 2, seed))}
    return broken


def most_of_a_clip() -> bytes:
    """Return a FLAC that lacks its end, for which its decoder waits."""
    file = io.BytesIO()
    soundfile.write(file, level(1, 20 * 16_000), 16_000, format="FLAC", compression_level=0)
    return file.getvalue()[:-100]


def connection(server: AppServer) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), timeout=30)


def answer_of(sock: socket.socket) -> tuple[int, str]:
    """Return the status and the error's code of what the server says before it closes."""
    told = b"".join(iter(lambda: sock.recv(4096), b""))
    head, _, body = told.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def assert_serves(server: AppServer) -> None:
    answer = httpx.post(f"{server.url}/v1/classify", content=CLIP)
    assert (answer.status_code, answer.json()["tags"][0]["label"]) == (200, "Speech")


def test_every_broken_file_is_a_result_or_a_documented_error(server: AppServer, broken_files: dict[str, bytes]) -> None:
    wrong = {}
    with httpx.Client(timeout=60) as client:
        for name, data in broken_files.items():
            answer = client.post(f"{server.url}/v1/classify", content=data)
            if answer.status_code != 200 and (answer.json()["error"]["code"], answer.status_code) not in DOCUMENTED:
                wrong[name] = answer.text
    assert wrong == {}
    assert_serves(server)


async def test_every_broken_file_as_a_stream_is_a_result_or_a_documented_close(
    server: AppServer, broken_files: dict[str, bytes]
) -> None:
    wrong = {}
    for name, data in broken_files.items():
        pieces = [data[start : start + 65_536] for start in range(0, len(data), 65_536)][:20]
        told = await stream_pieces(server.url, {"encoding": "auto", "on_lag": "wait"}, pieces)
        errors = [(error["code"], told.code) for error in told.of_type("error") if error["fatal"]]
        if told.code != 1000 and (len(errors) != 1 or errors[0] not in CLOSES):
            wrong[name] = (told.code, told.of_type("error"))
    assert wrong == {}
    assert_serves(server)


def test_a_client_that_sends_on_after_its_refusal_has_its_answer_and_is_cut_off_after_a_while(hasty_server: AppServer) -> None:
    for fields in (b"Connection: close\r\n", b""):
        with connection(hasty_server) as sock:
            sock.sendall(HEAD + fields + b"Content-Length: %d\r\n\r\n" % 2**50 + bytes(1_000_000))
            if fields:
                assert answer_of(sock) == (413, "body_too_large"), "the answer and the end of it, while the body still comes"
            with pytest.raises(OSError, match=r"Broken pipe|Connection reset"):
                send_on(sock)
    assert_serves(hasty_server)


def send_on(sock: socket.socket) -> None:
    for _ in range(1_000_000):
        sock.sendall(bytes(65_536))


def num_without_memory(server: AppServer) -> float:
    """Return how many decoders were given up for their memory."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith('sonotag_decoder_failures_total{reason="memory"}')).split()[1])


async def test_sound_for_which_its_decoder_has_not_enough_memory_is_refused_as_that(server: AppServer, tmp_path: Path) -> None:
    whole = encode(tmp_path, tone(1.0, 440.0, 16_000), 16_000, "clip.m4a", "-movflags", "+faststart")
    hungry = hungry_mp4(whole.read_bytes())
    before = num_without_memory(server)
    answer = await asyncio.to_thread(httpx.post, f"{server.url}/v1/classify", content=hungry, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "decoding_failed")
    assert "SONOTAG_DECODER_MEMORY_BYTES" in answer.json()["error"]["message"]
    told = await stream_pieces(server.url, {"encoding": "auto"}, [hungry])
    assert (told.code, [error["code"] for error in told.of_type("error")]) == (4415, ["decoding_failed"])
    assert num_without_memory(server) == before + 2
    assert_serves(server)


@pytest.mark.skipif(platform.machine() not in PRCTL, reason="the filter is written for these machines")
def test_a_start_on_a_kernel_that_confines_less_warns_of_what_is_missing(tmp_path: Path) -> None:
    with running("tests.support.no_seccomp", "tests.support.fake_service", cwd=tmp_path) as service:
        service.wait_ready()
        assert service.end_cleanly() == exit_codes.OK
    (warning,) = (line for line in service.errors if "decoder processes are not fully confined" in line)
    assert "WARNING" in warning
    for what in (
        "files can be opened (the kernel takes no seccomp filter)",
        "sockets can be opened",
        "programs can be executed",
    ):
        assert what in warning
    assert "memory is not limited" not in warning, "limits need no filter"


def test_a_small_file_whose_index_asks_for_gigabytes_is_refused(server: AppServer) -> None:
    answer = httpx.post(f"{server.url}/v1/classify", content=greedy_mp4(80_000_000), timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "clip_too_long"), "what it got of the index before"


@pytest.mark.parametrize("claims", [True, False])
def test_a_small_file_that_is_long_is_refused(claims: bool, server: AppServer) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(100 * 16_000, np.int16), 16_000, format="FLAC")
    data = bytearray(file.getvalue())
    if not claims:
        data[21:26] = bytes([data[21] & 0xF0]) + bytes(4)  # STREAMINFO: the number of samples is unknown
    answer = httpx.post(f"{server.url}/v1/classify", content=bytes(data), timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "clip_too_long")
    assert "SONOTAG_MAX_CLIP_SECONDS" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "sent",
    [
        HEAD,
        HEAD + b"Content-Length: 100\r\n\r\n" + bytes(50),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        HEAD + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100\r\n\r\n--x\r\n",
    ],
)
def test_a_request_that_stops_in_the_middle_is_given_up(sent: bytes, hasty_server: AppServer) -> None:
    with closing(connection(hasty_server)) as sock:
        sock.sendall(sent)
        assert answer_of(sock) == (408, "request_timeout")


def test_a_body_that_drips_is_given_up(hasty_server: AppServer) -> None:
    with closing(connection(hasty_server)) as sock:
        sock.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
        sock.settimeout(0.02)
        told = b""
        while not told:
            try:
                told = sock.recv(4096)
            except TimeoutError:
                sock.sendall(b"x")
    assert told.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("before", [b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"])
def test_a_connection_on_which_nothing_comes_is_closed(before: bytes, hasty_server: AppServer) -> None:
    with closing(connection(hasty_server)) as sock:
        sock.sendall(before)
        if before:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            sock.sendall(b"x")
        while sock.recv(4096):
            pass


async def test_a_stream_is_not_held_to_the_time_of_a_head(hasty_server: AppServer) -> None:
    async with connect(stream_url(hasty_server.url, {"encoding": "s16le", "sample_rate": 16_000})) as stream:
        await stream.recv()
        with closing(connection(hasty_server)) as sock:
            sock.sendall(HEAD)
            assert answer_of(sock)[0] == 408  # as much time has passed
        await stream.send(b'{"type": "stop"}'.decode())
        assert json.loads(await stream.recv())["type"] == "summary"


async def test_a_flood_of_messages_ends_its_stream(hasty_server: AppServer) -> None:
    async with connect(stream_url(hasty_server.url, {"encoding": "s16le", "sample_rate": 16_000})) as stream:
        for _ in range(11):
            await stream.send('{"type": "keep_alive"}')
        told = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                told.append(json.loads(await stream.recv()))
    assert (told[-1]["code"], told[-1]["fatal"]) == ("too_many_messages", True)
    assert stream.close_code == 4429


async def test_streams_of_containers_have_a_limit_and_raw_ones_do_not(hasty_server: AppServer) -> None:
    async with connect(stream_url(hasty_server.url, {"encoding": "auto"})) as first:
        await first.recv()
        await first.send(most_of_a_clip())
        await first.send('{"type": "flush"}')
        assert json.loads(await first.recv())["type"] == "tags", "it is being decoded"
        told = await stream_pieces(hasty_server.url, {"encoding": "auto"}, [CLIP])
        assert (told.code, told.of_type("error")[0]["code"]) == (4503, "queue_full")
        raw = {"encoding": "s16le", "sample_rate": 16_000}
        assert (await stream_pieces(hasty_server.url, raw, [level(1, 16_000).tobytes()])).code == 1000
    assert_serves(hasty_server)


def test_parts_of_a_body_are_limited(server: AppServer) -> None:
    many = [("file", ("a.wav", b"x"))] * 300
    answer = httpx.post(f"{server.url}/v1/classify/batch", files=many, timeout=60)
    assert (answer.status_code, "256" in answer.json()["error"]["message"]) == (400, True)
    name = b"a" * 100_000
    long_header = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\nx\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{server.url}/v1/classify", content=long_header, headers=kind, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    ("path", "heads", "param"),
    [
        ("/v1/classify", ['name="sound"'], "sound"),
        ("/v1/classify", ['name="file"'], "file"),
        ("/v1/classify", ['name="file"; filename="a"', 'name="top_k"'], "top_k"),
        ("/v1/classify", ['name="file"; filename="a"'] * 2, "file"),
        ("/compat/huggingface", ['name="file"; filename="a"'] * 2, "file"),
        ("/v1/classify/batch", ['name="file"; filename="a"'] * 257, "file"),
    ],
)
def test_a_part_that_is_no_clip_is_refused_before_it_has_come(
    path: str, heads: list[str], param: str, server: AppServer
) -> None:
    parts = b"\r\nx\r\n".join(b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n" % head.encode() for head in heads)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with closing(connection(server)) as sock:
        sock.sendall(head.encode() + b"Content-Length: 1000000000\r\n\r\n" + parts)
        answer = receive(sock)  # the rest of the body is still awaited, and the connection open
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["param"] == param
