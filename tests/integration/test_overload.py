"""Overload in counts and order, with a model that the test holds in its hand; `make load` measures it on a real one."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Opcode
from websockets.uri import parse_uri

from service.capacity import write_saved
from tests.load.account import BROKEN, GOOD, LEFT, LOST, REFUSED, Account
from tests.load.traffic import RELOAD, Clients
from tests.support.app_server import AppServer, serving
from tests.support.measurements import make_measurement
from tests.support.process import running
from tests.support.rest import DOG, SPEECH, flac, heard, measure, wav
from tests.support.runners import FakeRunner, level
from tests.support.streams import RAW
from tests.support.websocket import Stream, stream_pieces, stream_url

SECOND = level(SPEECH, 16_000).tobytes()
TENTH = SECOND[:3200]


def until(condition) -> None:  # type: ignore[no-untyped-def]
    for _ in range(100_000):
        if condition():
            return
    raise AssertionError("it did not come")


async def learn_speed(server: AppServer) -> None:
    assert (await stream_pieces(server.url, RAW, [SECOND])).code == 1000


async def test_a_stream_that_the_model_has_no_time_for_is_refused_and_the_others_go_on() -> None:
    with serving(FakeRunner(batch_sizes=(1,), delay_seconds=0.4), max_lag_seconds=60) as server:
        await learn_speed(server)
        await asyncio.to_thread(until, lambda: not measure(server.url)["sonotag_streams_open{}"])
        async with Stream(server.url, RAW) as first:
            await first.until("ready")
            with pytest.raises(InvalidStatus) as refused:
                await connect(stream_url(server.url, {**RAW, "hop": 0.1}))
            answer = refused.value.response
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) == 5
            assert "SONOTAG_LIVE_SHARE" in answer.body.decode()
            await first.send({"type": "update", "hop": 0.1})  # alone it may ask for anything
            assert (await first.until("configuration"))["configuration"]["hop"] == 0.1
            await first.send(SECOND)
            await first.send({"type": "stop"})
            assert (await first.closed()).code == 1000
        counted = await asyncio.to_thread(measure, server.url)
        assert counted['sonotag_streams_refused_total{reason="full"}'] == 1


async def test_a_measured_limit_takes_nobody_in_for_whom_the_model_has_no_time_now(tmp_path: Path) -> None:
    """The benchmark had the machine to itself; beside clips and batches the model's own speed is the smaller limit."""
    path = tmp_path / "capacity.json"
    write_saved(path, limit=make_measurement(streams=60))
    with serving(FakeRunner(batch_sizes=(1,), delay_seconds=0.4), max_lag_seconds=60, capacity_file=path) as server:
        await learn_speed(server)
        await asyncio.to_thread(until, lambda: not measure(server.url)["sonotag_streams_open{}"])
        async with Stream(server.url, RAW) as first:
            await first.until("ready")
            capacity = (await asyncio.to_thread(httpx.get, server.url + "/v1/capacity")).json()
            assert (capacity["streams_open"], capacity["streams_limit"]) == (1, 60)
            assert capacity["streams_limit_from"] == "measured"
            with pytest.raises(InvalidStatus) as refused:
                await connect(stream_url(server.url, {**RAW, "hop": 0.1}))
            assert refused.value.response.status_code == 503
            assert "SONOTAG_LIVE_SHARE" in refused.value.response.body.decode()


async def test_streams_go_before_clips_and_clips_before_a_file() -> None:
    with serving(FakeRunner(batch_sizes=(1,)), max_lag_seconds=60) as server:
        runner = server.runner
        runner.hold()
        async with httpx.AsyncClient(timeout=60) as client, Stream(server.url, RAW) as stream:
            file = asyncio.create_task(client.post(f"{server.url}/v1/classify", content=wav(heard((DOG, 45.0)))))
            await asyncio.to_thread(runner.wait_for_runs, 1)
            clip = asyncio.create_task(client.post(f"{server.url}/v1/classify", content=wav(heard((2, 1.0)))))
            await asyncio.to_thread(until, lambda: depth(server) == 8)
            await stream.send(SECOND)
            await asyncio.to_thread(until, lambda: depth(server) == 9)
            runner.release()
            await stream.until("tags")
            assert (await clip).status_code == (await file).status_code == 200
        order = [int(call.waveform[0, 0]) // 1000 for call in runner.calls[:4]]
        assert order == [DOG, SPEECH, 2, DOG]


def depth(server: AppServer) -> float:
    return measure(server.url)['sonotag_queue_depth_windows{model="fake"}']


async def test_a_client_that_never_reads_is_told_and_closed_and_leaves_no_connection(tmp_path: Path) -> None:
    environ = {"SONOTAG_SEND_SECONDS": "0.2", "SONOTAG_MAX_MESSAGES_PER_SECOND": "1000000"}
    with running("tests.support.fake_server", environ=environ, cwd=tmp_path) as process:
        url = process.wait_ready()
        uri = parse_uri(stream_url(url, RAW))
        protocol = ClientProtocol(uri)
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect((uri.host, uri.port))
        with raw:
            protocol.send_request(protocol.connect())
            raw.sendall(b"".join(protocol.data_to_send()))
            while protocol.state.name == "CONNECTING":
                protocol.receive_data(raw.recv(4096))
            raw.settimeout(0.05)
            closed = 'sonotag_streams_total{outcome="idle"} 1.0'
            async with httpx.AsyncClient() as client:
                while closed not in (await client.get(f"{url}/metrics")).text:
                    for _ in range(500):  # each is answered with the whole configuration
                        protocol.send_text(b'{"type": "update", "top_k": 1}')
                    try:
                        raw.sendall(b"".join(protocol.data_to_send()))
                    except (TimeoutError, OSError):
                        continue  # it is not read any more either
            raw.settimeout(30)
            while data := raw.recv(65536):
                protocol.receive_data(data)
            frames = [event for event in protocol.events_received() if getattr(event, "opcode", None) is Opcode.TEXT]
            assert b'"slow_reader"' in bytes(frames[-1].data)
            assert protocol.close_rcvd is not None
            assert protocol.close_rcvd.code == 4408
        assert (await stream_pieces(url, RAW, [SECOND])).code == 1000
        assert not [line for line in process.errors if "ERROR" in line or "WARNING" in line]


async def test_a_client_that_does_not_read_its_lines_is_cut_off_and_its_file_scored_no_further(tmp_path: Path) -> None:
    seconds = 300
    with running("tests.support.fake_server", environ={"SONOTAG_SEND_SECONDS": "0.2"}, cwd=tmp_path) as process:
        url = httpx.URL(process.wait_ready())
        clip = wav(heard((DOG, seconds)))
        path = "/v1/classify?hop=0.1"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {url.host}\r\nAccept: application/x-ndjson\r\nContent-Length: {len(clip)}\r\n\r\n"
        )
        with socket.socket() as raw:
            # What the kernels keep for it is as little as can be.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            raw.connect((url.host, url.port))
            raw.sendall(head.encode() + clip)
            assert raw.recv(1000).startswith(b"HTTP/1.1 200 OK"), "it is answered as it is scored"
            await asyncio.to_thread(process.wait_for_line, r"a client does not read and is cut off \(SONOTAG_SEND_SECONDS\)")
            await asyncio.to_thread(process.wait_for_line, "request answered .*route=/v1/classify status=499")
        counted = measure(str(url))
        assert counted['sonotag_requests_total{route="/v1/classify",status="499"}'] == 1
        assert counted['sonotag_audio_received_seconds_total{source="clip"}'] < seconds / 2
        assert counted['sonotag_queue_depth_windows{model="fake"}'] == 0
        slowly = await asyncio.to_thread(read_slowly, url, head.encode() + clip)
        assert b'"type":"summary"' in slowly, "who reads, in whatever pieces, gets all"
        assert not [line for line in process.errors if "ERROR" in line or "WARNING" in line]


def read_slowly(url: httpx.URL, request: bytes) -> bytes:
    """Return a whole answer that is read in small pieces."""
    answer = b""
    with socket.create_connection((url.host, url.port or 0), timeout=60) as raw:
        raw.sendall(request.replace(b"Accept:", b"Connection: close\r\nAccept:"))
        while piece := raw.recv(1000):
            answer += piece
    return answer


async def test_a_client_that_leaves_ends_the_decoding_of_its_file() -> None:
    seconds = 600
    with serving(FakeRunner(batch_sizes=(1,))) as server:
        server.runner.hold()
        async with httpx.AsyncClient(timeout=60) as client:
            job = asyncio.create_task(client.post(f"{server.url}/v1/classify", content=wav(heard((DOG, seconds)))))
            await asyncio.to_thread(server.runner.wait_for_runs, 1)
            job.cancel()
            await asyncio.wait([job])
        left = 'sonotag_requests_total{route="/v1/classify",status="499"}'
        await asyncio.to_thread(until, lambda: measure(server.url).get(left) == 1)
        server.runner.release()
        counted = await asyncio.to_thread(measure, server.url)
        assert 0 < counted['sonotag_audio_received_seconds_total{source="clip"}'] < seconds / 10
        assert counted['sonotag_windows_dropped_total{model="fake",reason="left"}'] > 0


async def test_whatever_clients_do_every_deed_has_one_end_and_nothing_is_lost(tmp_path: Path) -> None:
    environ = {"SONOTAG_MAX_STREAMS": "4", "SONOTAG_MAX_QUEUE_WINDOWS": "8", "FAKE_SECONDS": "0.002"}
    with running("tests.support.fake_server", environ=environ, cwd=tmp_path) as process:
        samples = heard((SPEECH, 5.0))
        clients = Clients(
            process.wait_ready(), (wav(samples), flac(samples)), samples.tobytes(), 16_000, "Speech", window=1.0, pace=0.0
        )
        del clients.deeds[RELOAD]  # the fake model has no folder to be read from again
        account = Account()
        await asyncio.gather(*(clients.work(account, lambda: account.sent >= 150) for _ in range(12)))
        for kind, deed in (clients.deeds | {"healthy stream": clients.healthy_stream}).items():
            while (end := await account.enter(kind, deed)) == REFUSED:
                pass
            assert end in (GOOD, LEFT), account.lines()
        await clients.close()
    assert account.ends[LOST] == account.ends[BROKEN] == 0, account.lines()
    assert account.is_balanced
    assert account.missing([*clients.deeds]) == [], account.table()
    assert account.ends[REFUSED]
    assert not [line for line in process.errors if "ERROR" in line or "WARNING" in line]
