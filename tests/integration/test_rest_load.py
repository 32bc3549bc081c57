"""More work than the model can do, clients that leave, deadlines that pass, and the end of the process."""

from __future__ import annotations

import json
import signal
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.app_server import AppServer, serving
from tests.support.process import running
from tests.support.raw_requests import knock, send
from tests.support.rest import DOG, MUSIC, SPEECH, expect_error, expect_error_body, heard, lines, measure, until, wav
from tests.support.runners import LEVEL_STEP, FakeRunner

ONE = wav(heard((SPEECH, 1.0)))
TEN = wav(heard((SPEECH, 5.0), (MUSIC, 5.0)))
LONG = wav(heard((DOG, 45.0)))


def post(server: AppServer, clip: bytes, path: str = "/v1/classify") -> httpx.Response:
    return httpx.post(server.url + path, content=clip, timeout=60)


def in_background(
    pool: ThreadPoolExecutor, server: AppServer, clip: bytes, path: str = "/v1/classify"
) -> Future[httpx.Response]:
    """Send a clip and return once the model works on it."""
    num_runs = len(server.runner.calls)
    sent = pool.submit(post, server, clip, path)
    server.runner.wait_for_runs(num_runs + 1)
    return sent


def connect(server: AppServer, clip: bytes, accept: str = "*/*", path: str = "/v1/classify", missing: int = 0) -> socket.socket:
    """Send a clip, or all but its last bytes, on a connection of one's own."""
    return send(server.url, path, clip[: len(clip) - missing], len(clip), {"Accept": accept})


def answered(server: AppServer, status: int, route: str = "/v1/classify") -> float:
    return measure(server.url).get(f'sonotag_requests_total{{route="{route}",status="{status}"}}', 0)


def windows_scored(server: AppServer) -> float:
    return measure(server.url)['sonotag_windows_scored_total{model="fake"}']


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch", "/compat/huggingface"])
def test_the_work_of_a_client_that_leaves_is_dropped(path: str) -> None:
    with serving(FakeRunner(batch_sizes=(1,))) as server:
        server.runner.hold()
        with connect(server, TEN, path=path):
            server.runner.wait_for_runs(1)
        until(lambda: answered(server, 499, path) == 1)
        server.runner.release()
        assert post(server, ONE).status_code == 200
        assert windows_scored(server) == 2  # the one that was in the model, and the one after
        values = measure(server.url)
        assert values['sonotag_queue_depth_windows{model="fake"}'] == 0
        assert values['sonotag_windows_dropped_total{model="fake",reason="left"}'] >= 1


def test_a_client_that_leaves_in_the_middle_of_its_lines_gives_its_places_back() -> None:
    with serving(FakeRunner(batch_sizes=(1,)), max_queue_windows=2) as server:
        for turn in range(1, 6):
            server.runner.hold()
            num_runs = len(server.runner.calls)
            with connect(server, LONG, accept="application/x-ndjson") as connection:
                server.runner.wait_for_runs(num_runs + 1)
                server.runner.release(1)
                received = b""
                while b'"type":"window"' not in received:
                    received += connection.recv(4096)
                server.runner.wait_for_runs(num_runs + 2)
            until(lambda: not server.lifecycle.num_active)
            server.runner.release()
            until(lambda turn=turn: answered(server, 499) == turn)
            assert answered(server, 200) == turn - 1
            assert post(server, TEN).status_code == 200  # needs all places
        assert windows_scored(server) == 5 * 2 + 5 * 10


def test_a_client_that_leaves_while_it_sends_costs_the_model_nothing() -> None:
    with serving() as server:
        with connect(server, TEN, missing=1):
            until(lambda: server.lifecycle.num_active == 1)
        until(lambda: answered(server, 499) == 1)
        assert not server.lifecycle.num_active
        assert windows_scored(server) == 0


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch", "/compat/huggingface"])
def test_a_client_that_leaves_while_it_waits_for_a_decoder_leaves_the_line_and_costs_none(path: str) -> None:
    with serving(FakeRunner(batch_sizes=(1,)), max_decoders=1) as server, ThreadPoolExecutor() as pool:
        server.runner.hold()
        first = in_background(pool, server, TEN)
        other = "/compat/huggingface" if path == "/v1/classify" else "/v1/classify"
        for turn in range(1, 4):
            with connect(server, TEN, path=path):
                until(lambda: is_line_full(server, other))
            until(lambda turn=turn: answered(server, 499, path) == turn)
            assert not is_line_full(server, other)
        until(lambda: server.lifecycle.num_active == 1)
        last = pool.submit(post, server, ONE)
        until(lambda: is_line_full(server, other))
        server.runner.release()
        assert first.result().status_code == 200
        assert last.result().status_code == 200
        received = measure(server.url)['sonotag_audio_received_seconds_total{source="clip"}']
        assert received == 11, "of the clips whose clients left nothing was decoded"


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch", "/compat/huggingface"])
def test_a_clip_for_which_the_queue_has_no_place_is_503_before_its_body_is_sent(path: str) -> None:
    with serving(FakeRunner(batch_sizes=(1,)), max_queue_windows=2) as server, ThreadPoolExecutor() as pool:
        assert knock(server.url, path).status == 100
        server.runner.hold()
        first = in_background(pool, server, TEN)
        refused = knock(server.url, path)
        assert refused.status == 503  # and not 100 Continue
        assert "retry-after" in refused.headers
        assert "SONOTAG_MAX_QUEUE_WINDOWS is 2" in expect_error_body(json.loads(refused.body)["error"], "queue_full")
        server.runner.release()
        assert first.result().status_code == 200
        assert knock(server.url, path).status == 100


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch", "/compat/huggingface"])
def test_clients_that_send_slowly_or_never_hold_no_place_of_others(path: str) -> None:
    with (
        serving(FakeRunner(batch_sizes=(1,)), max_queue_windows=2, max_decoders=1) as server,
        ExitStack() as stack,
    ):
        for _ in range(5):
            stack.enter_context(connect(server, TEN, path=path, missing=1))
        until(lambda: server.lifecycle.num_active == 5)
        assert post(server, TEN).status_code == 200
        assert post(server, TEN, "/v1/classify/batch").json()["results"][0]["duration"] == 10


def is_line_full(server: AppServer, path: str) -> bool:
    """Return whether a clip is refused a decoder because another one waits already; one that is let in leaves."""
    return knock(server.url, path).status == 503


def test_a_full_queue_is_503_at_once_and_says_when_to_come_again() -> None:
    with serving(FakeRunner(batch_sizes=(1,)), max_queue_windows=2) as server, ThreadPoolExecutor() as pool:
        server.runner.hold()
        first = in_background(pool, server, TEN)
        for path in ("/v1/classify", "/compat/huggingface"):
            refused = post(server, ONE, path)  # the model stands still: this answer did not wait for it
            message = expect_error(refused, 503, "queue_full")
            assert "SONOTAG_MAX_QUEUE_WINDOWS is 2" in message
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["retryable"]
            assert refused.json()["error"]["retry_after_s"] > 0
        server.runner.release()
        assert first.result().json()["duration"] == 10
        assert post(server, ONE).status_code == 200


def test_a_batch_holds_places_of_the_queue_but_never_all() -> None:
    with serving(FakeRunner(batch_sizes=(1,)), max_queue_windows=4) as server, ThreadPoolExecutor() as pool:
        server.runner.hold()
        first = in_background(pool, server, TEN, "/v1/classify/batch")
        expect_error(post(server, ONE, "/v1/classify/batch"), 503, "queue_full")
        live = pool.submit(post, server, ONE)
        until(lambda: server.lifecycle.num_active == 2)
        server.runner.release()
        assert live.result().status_code == 200
        assert first.result().json()["results"][0]["duration"] == 10
        assert post(server, ONE, "/v1/classify/batch").status_code == 200


def test_a_short_clip_goes_before_a_long_file() -> None:
    with serving(FakeRunner(batch_sizes=(1,))) as server, ThreadPoolExecutor() as pool:
        server.runner.hold()
        long = in_background(pool, server, LONG)
        short = pool.submit(post, server, ONE)
        # Of the eight windows that the file may have there one is in the model.
        until(lambda: measure(server.url)['sonotag_queue_depth_windows{model="fake"}'] == 7 + 1)
        server.runner.release()
        assert short.result().json()["tags"][0]["label"] == "Speech"
        assert long.result().json()["tags"][0]["label"] == "Dog"
        heard_in_order = [int(call.waveform[0, 0]) // LEVEL_STEP for call in server.runner.calls]
        assert heard_in_order == [DOG, SPEECH] + [DOG] * 44


def test_a_long_file_takes_no_more_places_than_there_are() -> None:
    with serving(max_queue_windows=1) as server:
        assert post(server, LONG).json()["duration"] == 45
        assert len(httpx.post(f"{server.url}/v1/classify/batch", files=[("file", LONG)] * 3).json()["results"]) == 3


def test_a_window_that_waits_past_its_deadline_is_503() -> None:
    with serving(FakeRunner(batch_sizes=(1,)), request_timeout_seconds=0.05) as server, ThreadPoolExecutor() as pool:
        server.runner.hold()
        first = in_background(pool, server, ONE)
        late = post(server, ONE)  # the model stands still: only the deadline can end this
        expect_error(late, 503, "deadline_exceeded")
        assert int(late.headers["retry-after"]) >= 1
        batch = httpx.post(f"{server.url}/v1/classify/batch", files=[("file", ONE), ("file", b"no sound")])
        expect_error_body(batch.json()["results"][0]["error"], "deadline_exceeded")
        expect_error_body(batch.json()["results"][1]["error"], "unsupported_audio")
        server.runner.release()
        assert first.result().status_code == 200
        until(lambda: windows_scored(server) == 1)


def test_a_model_too_slow_for_the_deadline_is_503_also_in_a_process_of_its_own(tmp_path: Path) -> None:
    environ = {"FAKE_SECONDS": "0.3", "SONOTAG_REQUEST_TIMEOUT_SECONDS": "0.1"}
    with running("tests.support.fake_server", environ=environ, cwd=tmp_path) as server:
        url = server.wait_ready()
        response = httpx.post(f"{url}/v1/classify", content=TEN)
        expect_error(response, 503, "deadline_exceeded")
        assert response.headers["retry-after"]


def test_a_drain_finishes_what_is_under_way_and_refuses_what_is_new() -> None:
    with serving(FakeRunner(batch_sizes=(1,))) as server, ThreadPoolExecutor() as pool:
        server.runner.hold()
        whole = in_background(pool, server, TEN)
        with connect(server, LONG, accept="application/x-ndjson"), httpx.Client(base_url=server.url) as kept:
            until(lambda: server.lifecycle.num_active == 2)
            assert kept.get("/health/ready").json() == {"status": "ready"}
            server.begin_drain()
            until(lambda: server.lifecycle.state == "draining")
            with httpx.Client(base_url=server.url) as fresh:
                for client in (kept, fresh):
                    for path in ("/v1/classify", "/v1/classify/batch", "/compat/huggingface"):
                        refused = client.post(path, content=ONE)
                        expect_error(refused, 503, "draining")
                        assert int(refused.headers["retry-after"]) >= 1
                    expect_error(client.get("/health/ready"), 503, "draining")
                    assert client.get("/health/live").status_code == 200
                    assert client.get("/metrics").status_code == 200
            server.runner.release()
            assert whole.result().json()["duration"] == 10
    # The other one was left by its client; the process ends by itself all the same.
    server.wait_ended()


def test_lines_under_way_when_the_drain_begins_are_sent_to_the_end() -> None:
    with serving(FakeRunner(batch_sizes=(1,))) as server:
        server.runner.hold()
        headers = {"Accept": "application/x-ndjson"}
        with ThreadPoolExecutor() as pool, httpx.Client(timeout=60) as client:
            opened = pool.submit(
                client.send,
                client.build_request("POST", f"{server.url}/v1/classify", content=LONG, headers=headers),
                stream=True,
            )
            server.runner.wait_for_runs(1)
            server.runner.release(1)
            response = opened.result()
            received = lines(response)
            assert next(received)["type"] == "window"
            server.begin_drain()
            until(lambda: server.lifecycle.state == "draining")
            server.runner.release()
            *windows, summary = received
            response.close()
        assert len(windows) == 44
        assert (summary["type"], summary["duration"]) == ("summary", 45)
        server.wait_ended()


def test_sigterm_loses_no_answer_that_is_under_way(tmp_path: Path) -> None:
    with (
        running("tests.support.fake_server", environ={"FAKE_SECONDS": "0.05"}, cwd=tmp_path) as server,
        ThreadPoolExecutor() as pool,
    ):
        url = server.wait_ready()
        with httpx.stream("POST", f"{url}/v1/classify", content=LONG, headers={"Accept": "application/x-ndjson"}) as response:
            received = response.iter_lines()
            json.loads(next(received))
            whole = pool.submit(httpx.post, f"{url}/v1/classify", content=TEN, timeout=60)
            until(
                lambda: (
                    'sonotag_audio_received_seconds_total{source="clip"} 10' in httpx.get(f"{url}/metrics").text or whole.done()
                )
            )
            server.send_signal(signal.SIGTERM)
            assert json.loads(list(received)[-1])["type"] == "summary"
        assert whole.result().json()["duration"] == 10
        assert server.wait() == 0
