"""Who may come in: keys, scopes, tokens, quotas and pages elsewhere, over REST and websockets, on real servers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from service import exit_codes
from service.access.guard import NEEDED, Guard
from service.access.keys import Limits
from service.app import create_app
from service.client import Client
from service.errors import InvalidParameter, MissingScope, NotFound, SettingsError, Unauthorised
from service.inference.runner import Int16Array
from service.keeper.client import LocalKeeper
from service.keeper.keeper import Keeper
from service.kept_quotas import KeptQuotas
from service.server import make_config
from service.settings import Settings
from service.sockets import listen
from service.streaming.messages import Summary
from tests.support.app_server import AppServer, serving
from tests.support.bundles import write_bundle
from tests.support.certificates import make_certificate
from tests.support.command import run_sonotag
from tests.support.keys import add_key, bearer, remove_key
from tests.support.process import running
from tests.support.rest import SPEECH, expect_error, flac, heard, measure, wav
from tests.support.runners import FakeRunner
from tests.support.shared import REPOSITORY
from tests.support.websocket import Stream, stream_url

CLIP = wav(heard((SPEECH, 2.0)))
RAW = {"encoding": "s16le", "sample_rate": 16_000}
SECOND = heard((SPEECH, 1.0)).tobytes()
SCENE = REPOSITORY / "examples" / "scene.ogg"
"""12.2 s in a container that does not tell how long it is."""
SECRET = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Keys by name, and where their file is."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return {
        "file": str(path),
        "all": add_key(path, "all", "classify", "stream", "metrics", "admin"),
        "clips": add_key(path, "clips", "classify"),
        "live": add_key(path, "live", "stream"),
        "scrape": add_key(path, "scrape", "metrics"),
    }


@pytest.fixture(scope="module")
def server(keys: dict[str, str]) -> Iterator[AppServer]:
    with serving(api_keys_file=keys["file"], cors_origins="https://page.example", allowed_hosts="tags.example") as server:
        yield server


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Basic dXNlcjpwYXNz", "the header Authorization has the scheme Basic, wanted is Bearer"),
        ("secret", "the header Authorization names no scheme, wanted is Bearer"),
        ("", "the header Authorization names no scheme, wanted is Bearer"),
    ],
)
def test_another_scheme_than_bearer_is_told_which_is_wanted(header: str, words: str, server: AppServer) -> None:
    message = expect_error(httpx.get(server.url + "/v1/labels", headers={"Authorization": header}), 401, "unauthorised")
    assert message.startswith(words)
    with connect(stream_url(server.url, RAW), additional_headers={"Authorization": header}) as socket:
        assert json.loads(socket.recv())["message"] == message
    assert "secret" not in message
    assert "dXNl" not in message


@pytest.mark.parametrize("path", ["/nope", "/v1/stream/", "/v1/stream%0A", "/"])
def test_a_websocket_on_another_path_is_answered_as_a_request_is(path: str, server: AppServer, keys: dict[str, str]) -> None:
    address = server.url.replace("http", "ws", 1) + path
    with pytest.raises(InvalidStatus) as caught:
        connect(address, additional_headers=bearer(keys["all"]))
    answer = caught.value.response
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    error = json.loads(answer.body or b"")["error"]
    assert (error["code"], error["retryable"]) == ("not_found", False)
    assert "/v1/stream" in error["message"]
    with Client(server.url + "/nope", api_key=keys["all"]) as client, pytest.raises(NotFound, match="/v1/stream"):
        list(client.stream(SCENE))


def refusal_by_name(url: str, name: str, key: str) -> tuple[str, int | None]:
    """Open a stream on the service under another name; return the error's code and the close code."""
    address = urlsplit(url)
    sock = socket.create_connection((address.hostname, address.port))
    with connect(f"ws://{name}/v1/stream", sock=sock, additional_headers=bearer(key)) as stream:
        code = json.loads(stream.recv())["code"]
        with suppress(ConnectionClosed):
            stream.recv()
    return code, stream.close_code


def refusal(
    url: str, query: dict[str, object] | None = None, subprotocols: list[Any] | None = None, **headers: str
) -> tuple[str, int | None, str | None]:
    """Open a stream that is refused; return the error's code, the close code and the subprotocol that was answered."""
    with connect(stream_url(url, RAW | (query or {})), additional_headers=headers, subprotocols=subprotocols) as stream:
        messages = []
        with suppress(ConnectionClosed):
            messages += [json.loads(stream.recv())]
            stream.recv()
    [message] = messages
    assert (message["type"], message["fatal"]) == ("error", True)
    assert stream.close_reason == message["code"]
    return message["code"], stream.close_code, stream.subprotocol


def is_let_in(url: str, query: dict[str, object] | None = None, subprotocols: list[Any] | None = None, **headers: str) -> bool:
    with connect(stream_url(url, RAW | (query or {})), additional_headers=headers, subprotocols=subprotocols) as stream:
        return bool(json.loads(stream.recv())["type"] == "ready")


def classify(url: str, **headers: str) -> httpx.Response:
    return httpx.post(url + "/v1/classify", content=CLIP, headers=headers)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/classify"),
        ("POST", "/v1/classify/batch"),
        ("POST", "/compat/huggingface"),
        ("POST", "/v1/tokens"),
        ("GET", "/v1/models"),
        ("GET", "/v1/labels"),
        ("GET", "/metrics"),
        ("GET", "/v1/stream"),
        ("GET", "/nothing"),
        ("DELETE", "/v1/classify"),
    ],
)
def test_without_a_key_everything_but_what_is_public_is_401(server: AppServer, method: str, path: str) -> None:
    for headers in ({}, bearer("wrong"), {"Authorization": "Basic YTpi"}, bearer("sonotag_00000000_" + "A" * 43)):
        response = httpx.request(method, server.url + path, headers=headers)
        expect_error(response, 401, "unauthorised")
        assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "path", ["/", "/web/app.js", "/health/live", "/health/ready", "/openapi.json", "/asyncapi.json", "/docs"]
)
def test_pages_probes_and_descriptions_need_no_key(server: AppServer, path: str) -> None:
    assert httpx.get(server.url + path).status_code == 200


def test_a_key_is_for_its_scopes(server: AppServer, keys: dict[str, str]) -> None:
    assert classify(server.url, **bearer(keys["clips"])).status_code == 200
    assert httpx.get(server.url + "/metrics", headers=bearer(keys["scrape"])).status_code == 200
    assert is_let_in(server.url, **bearer(keys["live"]))
    assert "classify" in expect_error(classify(server.url, **bearer(keys["live"])), 403, "missing_scope")
    expect_error(httpx.get(server.url + "/metrics", headers=bearer(keys["clips"])), 403, "missing_scope")
    assert refusal(server.url, **bearer(keys["clips"])) == ("missing_scope", 4401, None)
    for name in ("clips", "live", "scrape"):
        assert httpx.get(server.url + "/v1/models", headers=bearer(keys[name])).status_code == 200


def test_a_path_with_a_line_feed_is_none_of_ours(server: AppServer, keys: dict[str, str]) -> None:
    expect_error(httpx.get(server.url + "/metrics%0A", headers=bearer(keys["clips"])), 404, "not_found")


def test_a_stream_without_a_good_key_is_told_why(server: AppServer) -> None:
    assert refusal(server.url) == ("unauthorised", 4401, None)
    assert refusal(server.url, **bearer("wrong")) == ("unauthorised", 4401, None)
    assert refusal(server.url, {"token": "a.b.c"}) == ("unauthorised", 4401, None)
    assert refusal(server.url, None, ["sonotag.bearer.wrong"]) == ("unauthorised", 4401, "sonotag.bearer.wrong")


def test_a_browsers_subprotocol_carries_a_key_and_is_answered(server: AppServer, keys: dict[str, str]) -> None:
    for offered, answered in (
        ([f"sonotag.bearer.{keys['live']}"], f"sonotag.bearer.{keys['live']}"),
        (["sonotag.v1", f"sonotag.bearer.{keys['live']}"], "sonotag.v1"),
    ):
        with connect(stream_url(server.url, RAW), subprotocols=offered) as stream:  # type: ignore[arg-type]
            assert json.loads(stream.recv())["type"] == "ready"
            assert stream.subprotocol == answered


def token(url: str, key: str, **wanted: object) -> httpx.Response:
    return httpx.post(url + "/v1/tokens", json=wanted, headers=bearer(key))


def test_a_token_opens_streams_in_the_address_and_in_the_subprotocol(server: AppServer, keys: dict[str, str]) -> None:
    response = token(server.url, keys["all"], scopes=["stream"], seconds=30)
    assert response.headers["cache-control"] == "no-store"
    answer = response.json()
    assert (answer["scopes"], answer["expires_in"]) == (["stream"], 30)
    assert is_let_in(server.url, {"token": answer["token"]})
    assert is_let_in(server.url, None, ["sonotag.v1", f"sonotag.bearer.{answer['token']}"])
    expect_error(classify(server.url, **bearer(answer["token"])), 403, "missing_scope")
    everything = httpx.post(server.url + "/v1/tokens", headers=bearer(keys["clips"])).json()
    assert (everything["scopes"], everything["expires_in"]) == (["classify"], 60)
    assert classify(server.url, **bearer(everything["token"])).status_code == 200


def test_a_key_does_not_belong_into_an_address(server: AppServer, keys: dict[str, str]) -> None:
    assert refusal(server.url, {"token": keys["live"]}) == ("unauthorised", 4401, None)


def test_a_token_is_for_no_more_than_its_key_and_makes_no_other(server: AppServer, keys: dict[str, str]) -> None:
    expect_error(token(server.url, keys["live"], scopes=["stream", "admin"]), 403, "missing_scope")
    expect_error(token(server.url, keys["live"], seconds=100_000), 400, "invalid_parameter", "seconds")
    expect_error(token(server.url, keys["live"], scope="stream"), 400, "invalid_parameter", "scope")
    made = token(server.url, keys["live"]).json()["token"]
    expect_error(token(server.url, made), 403, "missing_scope")
    large = httpx.post(server.url + "/v1/tokens", content=b" " * 5000, headers=bearer(keys["live"]))
    expect_error(large, 413, "body_too_large")


def test_pages_elsewhere_are_refused_with_a_good_key_too(server: AppServer, keys: dict[str, str]) -> None:
    good = bearer(keys["all"])
    expect_error(classify(server.url, Origin="https://evil.example", **good), 403, "forbidden_origin")
    assert refusal(server.url, Origin="https://evil.example", **good) == ("forbidden_origin", 4403, None)
    expect_error(classify(server.url, Origin="null", **good), 403, "forbidden_origin")
    for origin in (server.url, "https://page.example"):
        assert classify(server.url, Origin=origin, **good).status_code == 200
        assert is_let_in(server.url, Origin=origin, **good)


def test_a_name_that_is_not_the_services_is_refused_and_probes_may_use_any(server: AppServer, keys: dict[str, str]) -> None:
    good = bearer(keys["all"])
    for path in ("/", "/v1/models", "/metrics"):
        expect_error(httpx.get(server.url + path, headers=good | {"Host": "evil.example"}), 403, "forbidden_host")
    assert httpx.get(server.url + "/v1/models", headers=good | {"Host": "tags.example"}).status_code == 200
    assert httpx.get(server.url + "/health/ready", headers={"Host": "evil.example"}).status_code == 200
    assert refusal_by_name(server.url, "evil.example", keys["all"]) == ("forbidden_host", 4403)
    rebound = {"Host": "evil.example", "X-Forwarded-Host": "localhost"}
    expect_error(httpx.get(server.url + "/v1/models", headers=good | rebound), 403, "forbidden_host")


def test_a_proxys_host_and_scheme_are_those_of_the_page() -> None:
    with serving(allowed_hosts="tags.example", root_path="/sonotag") as server:
        headers = {"X-Forwarded-Host": "tags.example", "X-Forwarded-Proto": "https", "Origin": "https://tags.example"}
        assert classify(server.url + "/sonotag", **headers).status_code == 200
        assert is_let_in(server.url + "/sonotag", **headers)
        expect_error(classify(server.url, **headers | {"X-Forwarded-Proto": "http"}), 403, "forbidden_origin")


def test_without_keys_pages_elsewhere_are_refused_and_everybody_else_let_in(fake_server: AppServer) -> None:
    assert classify(fake_server.url).status_code == 200
    assert classify(fake_server.url, **bearer("whatever")).status_code == 200
    expect_error(classify(fake_server.url, Origin="https://evil.example"), 403, "forbidden_origin")
    expect_error(classify(fake_server.url, Host="evil.example"), 403, "forbidden_host")
    assert refusal(fake_server.url, Origin="https://evil.example") == ("forbidden_origin", 4403, None)
    made = httpx.post(fake_server.url + "/v1/tokens", json={"scopes": ["stream"]}).json()["token"]
    assert is_let_in(fake_server.url, {"token": made}), "a program need not know whether there are keys"


def test_who_may_not_come_in_does_not_learn_whether_there_is_a_place(keys: dict[str, str]) -> None:
    key = bearer(keys["live"])
    with (
        serving(api_keys_file=keys["file"], max_streams=1) as server,
        connect(stream_url(server.url, RAW), additional_headers=key) as first,
    ):
        assert json.loads(first.recv())["type"] == "ready"
        assert refusal(server.url) == ("unauthorised", 4401, None)
        assert refusal(server.url, **bearer(keys["clips"])) == ("missing_scope", 4401, None)
        assert refusal(server.url, Origin="https://evil.example", **key) == ("forbidden_origin", 4403, None)
        with pytest.raises(InvalidStatus) as refused:
            is_let_in(server.url, **key)
        assert refused.value.response.status_code == 503


def test_refused_streams_are_counted_by_why_and_leave_none_open(server: AppServer) -> None:
    before = measure_with_key(server)
    refusal(server.url)
    refusal(server.url, Origin="https://evil.example")
    after = measure_with_key(server)
    for outcome in ("unauthorised", "origin"):
        name = f'sonotag_streams_total{{outcome="{outcome}"}}'
        assert after[name] == before[name] + 1
    assert after["sonotag_streams_open{}"] == before["sonotag_streams_open{}"] == 0


def measure_with_key(server: AppServer) -> dict[str, float]:
    body, _ = server.metrics.render()
    lines = [line.rpartition(" ") for line in body.decode().splitlines() if line.startswith("sonotag_streams")]
    return {(name if "{" in name else name + "{}"): float(value) for name, _, value in lines}


async def test_quotas_hold_and_say_when_to_come_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    busy = add_key(path, "busy", limits=Limits(requests_per_minute=3))
    few = add_key(path, "few", limits=Limits(max_streams=1))
    short = add_key(path, "short", limits=Limits(audio_seconds_per_day=5))
    with serving(api_keys_file=str(path), metrics="open") as server:
        async with httpx.AsyncClient(base_url=server.url, headers=bearer(busy)) as client:
            answers = [await client.get("/v1/labels") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        expect_error(answers[-1], 429, "quota")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60

        async with Stream(server.url, RAW, additional_headers=bearer(few)) as first:
            await first.until("ready")
            async with Stream(server.url, RAW, additional_headers=bearer(few)) as second:
                told = await second.closed()
            assert (told.code, told.messages[0]["code"], told.messages[0]["retryable"]) == (4429, "quota", True)
            await first.send({"type": "stop"})
            await first.closed()
        # The end of a stream is counted a moment after the client has seen it.
        async with httpx.AsyncClient() as client, asyncio.timeout(30):
            while "sonotag_streams_open 0.0" not in (await client.get(f"{server.url}/metrics")).text:
                pass
        async with Stream(server.url, RAW, additional_headers=bearer(few)) as third:
            await third.until("ready")

        async with Stream(server.url, RAW, additional_headers=bearer(short)) as listener:
            for _ in range(5):
                await listener.send(SECOND)
            await listener.send(SECOND)
            told = await listener.closed()
        assert told.code == 4429
        assert [message["end"] for message in told.tags] == [1, 2, 3, 4, 5], "what came before is scored and sent"
        async with httpx.AsyncClient(base_url=server.url, headers=bearer(short)) as client:
            expect_error(await client.post("/v1/classify", content=CLIP), 429, "quota")


@pytest.mark.parametrize("write", [wav, flac])
async def test_a_clip_that_is_longer_than_what_is_left_is_refused_before_it_is_decoded(
    write: Callable[[Int16Array], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "short", limits=Limits(audio_seconds_per_day=5))
    with serving(api_keys_file=str(path), metrics="open") as server:
        async with httpx.AsyncClient(base_url=server.url, headers=bearer(key)) as client:
            refused = await client.post("/v1/classify", content=write(heard((SPEECH, 6.0))))
            message = expect_error(refused, 413, "clip_too_long")
            assert "6.0 s of sound are needed at once, this API key may send 5 s in 24 hours" in message
            assert refused.json()["error"]["retryable"] is False
            assert (await client.post("/v1/classify", content=write(heard((SPEECH, 4.0))))).status_code == 200
            refused = await client.post("/v1/classify", content=write(heard((SPEECH, 3.0))))
            expect_error(refused, 429, "quota")
            assert refused.json()["error"]["retryable"] is True
            assert int(refused.headers["retry-after"]) > 3600
        assert measure(server.url)['sonotag_audio_received_seconds_total{source="clip"}'] == 4


def test_a_clip_that_does_not_tell_its_length_and_never_fits_is_refused_once_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "short", limits=Limits(audio_seconds_per_day=4))
    with serving(api_keys_file=str(path)) as server:
        refused = httpx.post(f"{server.url}/v1/classify", content=SCENE.read_bytes(), headers=bearer(key))
        assert expect_error(refused, 413, "clip_too_long").startswith("12.2 s of sound are needed at once")
        done = run_sonotag("classify", "--url", server.url, str(SCENE), cwd=tmp_path, environ={"SONOTAG_API_KEY": key})
        assert (done.code, done.errors.count("12.2 s")) == (exit_codes.FAILURE, 1)
        # It has cost the key nothing.
        assert classify(server.url, **bearer(key)).status_code == 200


async def test_quotas_hold_for_all_workers_together(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    few = add_key(path, "few", limits=Limits(max_streams=2))
    busy = add_key(path, "busy", limits=Limits(requests_per_minute=4))
    environ = {"SONOTAG_WORKERS": "2", "SONOTAG_API_KEYS_FILE": str(path), "SONOTAG_WATCHDOG_SECONDS": "600"}
    with running("tests.support.fake_service", cwd=tmp_path, environ=environ) as service:
        url = await asyncio.to_thread(service.wait_ready)
        one, other = service.children()

        def only(awake: int, asleep: int) -> None:
            """Have one worker take whatever comes next: the other one is stopped."""
            os.kill(awake, signal.SIGCONT)
            os.kill(asleep, signal.SIGSTOP)

        async def ask() -> int:
            async with httpx.AsyncClient(base_url=url, headers=bearer(busy), timeout=60) as client:
                return (await client.get("/v1/labels")).status_code

        async def open_stream(streams: AsyncExitStack) -> dict[str, Any]:
            """Return what a new stream is told first."""
            listener = await streams.enter_async_context(Stream(url, RAW, additional_headers=bearer(few), close_timeout=1))
            return await listener.first()

        async with AsyncExitStack() as streams:
            only(one, other)
            assert [await ask(), await ask()] == [200, 200]
            first = await open_stream(streams)
            only(other, one)
            assert [await ask(), await ask(), await ask()] == [200, 200, 429]
            second = await open_stream(streams)
            assert first["resume_token"].split(".")[0] != second["resume_token"].split(".")[0], "each worker has one"
            assert (await open_stream(streams))["code"] == "quota"
            os.kill(one, signal.SIGKILL)
            async with asyncio.timeout(60):  # until the supervisor has seen it
                while (again := await open_stream(streams))["type"] != "ready":
                    assert again["code"] == "quota"
            assert (await open_stream(streams))["code"] == "quota", "the streams of the worker that lives still count"
        assert await asyncio.to_thread(service.end_cleanly) == 0


def test_a_clip_counts_by_its_length_and_is_refused_before_it_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = bearer(add_key(path, "clips", limits=Limits(audio_seconds_per_day=5)))
    runner = FakeRunner()
    with serving(runner, api_keys_file=str(path)) as server:
        assert classify(server.url, **key).status_code == 200
        assert classify(server.url, **key).status_code == 200
        scored = len(runner.calls)
        message = expect_error(classify(server.url, **key), 429, "quota")
        assert "1.0 s of sound left of 5 s" in message
        assert len(runner.calls) == scored
        both = httpx.post(server.url + "/v1/classify/batch", files=[("file", CLIP), ("file", CLIP)], headers=key).json()
        assert [result["error"]["code"] for result in both["results"]] == ["quota", "quota"]


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/classify/batch", "/compat/huggingface"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_clip_for_which_no_sound_is_left_is_refused_before_its_body_is_sent(workers: str, path: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = bearer(add_key(file, "clips", limits=Limits(audio_seconds_per_day=5)))
    environ = {"SONOTAG_API_KEYS_FILE": str(file), "SONOTAG_WORKERS": workers, "SONOTAG_RECEIVE_TIMEOUT_SECONDS": "1"}
    head = key | {"Host": "localhost", "Expect": "100-continue", "Content-Length": "3000"}
    with running("tests.support.fake_service", environ=environ, cwd=tmp_path) as service:
        url = service.wait_ready()
        # What comes in and ends in any other way than with an answer gives back what it had.
        assert status_of(url, "POST", path, head, b"") == 100
        assert status_of(url, "POST", path, key | {"Host": "localhost", "Content-Length": "1000"}, b"no") == 408
        assert status_of(url, "POST", path, key | {"Host": "localhost", "Content-Length": "9" * 13}, b"") == 413
        assert httpx.post(url + path, content=b"no sound", headers=key).status_code in (200, 400, 415)
        assert classify(url, **key).json()["duration"] == 2
        assert httpx.post(url + "/v1/classify", content=wav(heard((SPEECH, 3.0))), headers=key).status_code == 200
        assert status_of(url, "POST", path, head, b"") == 429
        answer = httpx.post(url + path, headers=key, content=CLIP)
        message = expect_error(answer, 429, "quota")
        assert message == "this API key has 0.0 s of sound left of 5 s in 24 hours, 0.1 s are needed"
        assert int(answer.headers["retry-after"]) > 0
        # One that sends to the end before it looks, on a connection that is closed after the answer, still gets it.
        long = {"Host": "localhost", "Content-Length": "20000000"}
        assert status_of(url, "POST", path, key | long, bytes(20_000_000)) == 429


def test_keys_come_and_go_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    old = add_key(path, "old")
    with running("tests.support.fake_server", environ={"SONOTAG_API_KEYS_FILE": str(path)}, cwd=tmp_path) as process:
        url = process.wait_ready()
        made = httpx.post(url + "/v1/tokens", headers=bearer(old)).json()["token"]
        assert classify(url, **bearer(made)).status_code == 200
        remove_key(path, "old")
        new = add_key(path, "new")
        ask_until(url, new, lambda: "API keys are read anew" in process.stderr)
        assert classify(url, **bearer(new)).status_code == 200
        for gone in (old, made):
            expect_error(classify(url, **bearer(gone)), 401, "unauthorised")
        path.write_text("{")
        ask_until(url, new, lambda: "the API keys stay as they were" in process.stderr)
        assert classify(url, **bearer(new)).status_code == 200


def ask_until(url: str, key: str, is_so: Callable[[], bool]) -> None:
    """Ask again and again: the service looks at its file when it is asked, and then once a second."""
    with httpx.Client(base_url=url, headers=bearer(key)) as client:
        for _ in range(100_000):
            client.get("/v1/labels")
            if is_so():
                return
    raise AssertionError("the file was not read anew")


def test_tokens_are_good_for_every_worker_and_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    """Two workers, each of which takes some of the connections."""
    path, secret = tmp_path / "keys.json", tmp_path / "secret"
    key = add_key(path, "camera", "classify", "stream", "metrics")
    secret.write_text(SECRET)
    bundles = f"linear={write_bundle(tmp_path / 'bundle')}"
    environ = {
        "SONOTAG_API_KEYS_FILE": str(path),
        "SONOTAG_WORKERS": "2",
        "SONOTAG_LOG_LEVEL": "debug",
        "SONOTAG_BUNDLES": bundles,
    }
    for more in ({}, {"SONOTAG_TOKEN_SECRET_FILE": str(secret)}):
        with running("service", "serve", environ=environ | more, cwd=tmp_path) as process:
            url = process.wait_ready()
            tokens = [token(url, key, scopes=["stream"]).json()["token"] for _ in range(4)]
            # A connection of its own each: the workers take turns as the kernel has it.
            assert all(is_let_in(url, {"token": made, "hop": 0.1}) for made in tokens for _ in range(3))
            refusal(url, {"token": tokens[0][:-4] + "AAAA"})
            classify(url, **bearer(key[:-4] + "AAAA"))
            page = httpx.get(url + "/metrics", headers=bearer(key)).text
            shown = run_sonotag("settings", cwd=tmp_path, environ=environ | more).output
            process.end_cleanly()
        said = process.stderr + "".join(process.output) + page + shown
        stored = json.loads(path.read_text())["keys"][0]
        for hidden in (key, key[:-4], stored["hash"], stored["salt"], SECRET, *tokens, tokens[0][:-4]):
            assert hidden not in said
        assert "key=camera" in said


def test_the_log_names_who_was_refused_and_how_each_stream_ended(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "camera", "stream")
    environ = {"SONOTAG_API_KEYS_FILE": str(path), "SONOTAG_LOG_FORMAT": "json"}
    with running("tests.support.fake_server", environ=environ, cwd=tmp_path) as process:
        url = process.wait_ready()
        with connect(stream_url(url, RAW), additional_headers=bearer(key)) as stream:
            stream.send(SECOND)
            stream.send(json.dumps({"type": "stop"}))
            list(stream)
        process.wait_for_line("stream closed")
        refusal(url)
        httpx.post(url + "/v1/classify", headers=bearer(key) | {"X-Request-Id": "mine"})
        process.end_cleanly()
    lines = [json.loads(line) for line in process.errors]
    audit = [line for line in lines if line["logger"] == "service.audit"]
    assert [(line["event"], line["key"], line["outcome"]) for line in audit] == [
        ("stream closed", "camera", "done"),
        ("stream closed", "-", "unauthorised"),
        ("request refused", "camera", "missing_scope"),
    ]
    assert audit[0]["seconds"] == 1
    assert audit[0]["open_s"] > 0
    assert [len(line["session_id"]) for line in audit[:2]] == [16, 16]
    assert audit[2]["request_id"] == "mine"
    [answered] = [line for line in lines if line["event"] == "request answered" and line["request_id"] == "mine"]
    assert (answered["route"], answered["status"]) == ("/v1/classify", 403)


def endless_clip() -> bytes:
    """Return a FLAC of 120 s whose head does not say how long it is."""
    file = io.BytesIO()
    soundfile.write(file, heard((SPEECH, 120.0)), 16_000, format="FLAC")
    data = bytearray(file.getvalue())
    data[21:26] = bytes([data[21] & 0xF0]) + bytes(4)  # STREAMINFO: the number of samples
    return bytes(data)


async def test_every_answer_that_refuses_is_one_line_of_the_audit_wherever_it_was_decided(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = bearer(add_key(path, "camera", "classify", "stream", limits=Limits(audio_seconds_per_day=60)))
    environ = {
        "SONOTAG_API_KEYS_FILE": str(path),
        "SONOTAG_LOG_FORMAT": "json",
        "SONOTAG_MAX_BODY_BYTES": "10000000",
        "SONOTAG_MAX_STREAMS": "1",
        "SONOTAG_RECEIVE_TIMEOUT_SECONDS": "1",
    }
    refused = [
        ("GET", "/v1/models", {}, b"", 401, "unauthorised"),
        ("GET", "/nothing", key, b"", 404, "not_found"),
        ("GET", "/v1/classify", key, b"", 405, "method_not_allowed"),
        ("GET", "/v1/labels?model=none", key, b"", 404, "not_found"),
        ("POST", "/v1/classify?top_k=none", key, CLIP, 400, "invalid_parameter"),
        ("POST", "/v1/classify?hop=60", key, CLIP, 400, "invalid_parameter"),
        ("POST", "/v1/classify", key | {"Content-Length": "10000001"}, b"", 413, "body_too_large"),
        ("POST", "/v1/classify", key | {"Content-Length": "10"}, b"", 408, "request_timeout"),
        ("POST", "/v1/classify", key, b"no sound", 415, "unsupported_audio"),
        ("POST", "/v1/classify", key, wav(heard((SPEECH, 61.0))), 413, "clip_too_long"),
        ("POST", "/v1/classify", key | {"Accept": "application/x-ndjson"}, endless_clip(), 200, "clip_too_long"),
        ("POST", "/v1/classify", key, wav(heard((SPEECH, 59.0))), 429, "quota"),
    ]
    with running("tests.support.fake_server", environ=environ, cwd=tmp_path) as process:
        url = process.wait_ready()
        for number, (method, target, headers, content, status, _) in enumerate(refused):
            named = {"Host": "localhost", "X-Request-Id": str(number), "Content-Length": str(len(content)), **headers}
            assert await asyncio.to_thread(status_of, url, method, target, named, content) == status
        async with Stream(url, RAW, additional_headers=key) as first:
            await first.until("ready")
            with pytest.raises(InvalidStatus):
                is_let_in(url, **key)
        await asyncio.to_thread(process.wait_for_line, "stream closed")
        process.end_cleanly()
    audit = [line for line in map(json.loads, process.errors) if line["logger"] == "service.audit"]
    # A line is written when all of its request has ended: one that was cut short in its lines may come after the next one.
    requests = sorted((line for line in audit if line["event"] == "request refused"), key=lambda line: int(line["request_id"]))
    streams = [line for line in audit if line not in requests]
    assert [(line["request_id"], line["event"], line["key"], line["outcome"]) for line in requests] == [
        (str(number), "request refused", "camera" if headers else "-", code)
        for number, (_, _, headers, _, _, code) in enumerate(refused)
    ]
    assert all(line["ms"] >= 0 for line in requests)
    assert [(line["event"], line["key"], line["outcome"], len(line["session_id"])) for line in streams] == [
        ("stream refused", "camera", "queue_full", 16),
        ("stream closed", "camera", "disconnected", 16),
    ]


def status_of(url: str, method: str, target: str, headers: Mapping[str, str], content: bytes) -> int:
    """Send a request as it stands, also one whose body is not what it says; return the status once all is answered."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as sock:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        sock.sendall(f"{method} {target} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode() + content)
        answer = b"".join(iter(lambda: sock.recv(65_536), b""))
    return int(answer.split()[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_keys_the_service_does_not_open_to_others_unless_told_to(host: str, tmp_path: Path) -> None:
    with running("service", "serve", "--host", host, cwd=tmp_path) as process:
        assert process.wait() == exit_codes.START
        assert "SONOTAG_API_KEYS_FILE" in process.stderr
        assert "--insecure" in process.stderr
    add_key(tmp_path / "keys.json", "any")
    for more in ({"insecure": True}, {"api_keys_file": tmp_path / "keys.json"}):
        for sock in listen(Settings(_env_file=None, host=host, port=0, **more)):
            sock.close()


def test_a_file_of_keys_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with running("service", "serve", environ={"SONOTAG_API_KEYS_FILE": "none.json"}, cwd=tmp_path) as process:
        assert process.wait() == exit_codes.START
        assert "SONOTAG_API_KEYS_FILE is 'none.json': No such file or directory" in process.stderr


def test_what_is_closed_is_not_there_and_what_is_opened_needs_no_key(keys: dict[str, str]) -> None:
    with serving(api_keys_file=keys["file"], metrics="off", docs="off") as server:
        for path in ("/metrics", "/docs", "/openapi.json", "/asyncapi.json"):
            expect_error(httpx.get(server.url + path, headers=bearer(keys["all"])), 404, "not_found")
        assert httpx.get(server.url + "/").status_code == 200
    with serving(api_keys_file=keys["file"], metrics="open") as server:
        assert httpx.get(server.url + "/metrics").status_code == 200


def test_every_answer_tells_browsers_to_be_careful(fake_server: AppServer) -> None:
    for response in (
        httpx.get(fake_server.url + "/v1/labels"),
        httpx.get(fake_server.url + "/none"),
        classify(fake_server.url),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    page = httpx.get(fake_server.url + "/").headers
    assert "unsafe" not in page["content-security-policy"]
    assert page["cross-origin-opener-policy"] == "same-origin"


def test_the_description_says_what_is_asked(fake_server: AppServer) -> None:
    document = httpx.get(fake_server.url + "/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    guard = Guard(fake_server.settings, KeptQuotas(LocalKeeper(Keeper(fake_server.settings))))
    operations = {path: operation for path, methods in document["paths"].items() for operation in methods.values()}
    assert {"/v1/classify", "/v1/models/{name}", "/v1/labels", "/v1/capacity", "/v1/tokens", "/metrics"} <= operations.keys()
    for path, operation in operations.items():
        is_public = guard.is_public(path)
        assert operation.get("security") == (None if is_public else [{"HTTPBearer": []}]), path
        assert is_public or {"401", "403", "429", "503"} <= operation["responses"].keys(), path


def test_every_call_that_needs_a_key_answers_who_may_not_with_what_its_description_says(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = bearer(add_key(path, "once", "classify", limits=Limits(requests_per_minute=1)))
    with serving(api_keys_file=str(path)) as server:
        assert httpx.get(server.url + "/v1/models", headers=key).status_code == 200
        for target, methods in httpx.get(server.url + "/openapi.json").json()["paths"].items():
            for method, operation in methods.items():
                if "security" not in operation:
                    continue
                url = server.url + target.replace("{name}", "fake")
                origin = {"Origin": "https://elsewhere.example"}
                wanted = [(401, {}), (403, key | origin), (403 if NEEDED.get(target, "classify") != "classify" else 429, key)]
                for status, headers in wanted:
                    answer = httpx.request(method, url, headers=headers)
                    expect_error(answer, status, answer.json()["error"]["code"])
                    assert operation["responses"][str(status)]["content"]["application/json"]["schema"] == {
                        "$ref": "#/components/schemas/ErrorAnswer"
                    }
                    assert ("retry-after" in answer.headers) == (status == 429)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_https_and_secure_websockets_are_served_with_a_certificate(certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(cafile=certificate[0])
    with serving(tls_certificate_file=certificate[0], tls_key_file=certificate[1]) as server:
        assert server.url.startswith("https://127.0.0.1:")
        async with httpx.AsyncClient(base_url=server.url, verify=context, headers={"Origin": server.url}) as client:
            assert (await client.post("/v1/classify", content=CLIP)).status_code == 200
        async with Stream(server.url, RAW, ssl=context, origin=server.url) as listener:
            await listener.until("ready")


def test_a_certificate_that_cannot_be_had_stops_the_start(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    good, key = certificate
    for settings, reason in (
        ({"tls_key_file": key}, "go together"),
        ({"tls_certificate_file": tmp_path / "none", "tls_key_file": key}, "No such file"),
        ({"tls_certificate_file": key, "tls_key_file": good}, "SONOTAG_TLS_KEY_FILE"),
    ):
        wanted = Settings(_env_file=None, **settings)
        with pytest.raises(SettingsError, match=reason):
            make_config(create_app(wanted, runner=FakeRunner()), wanted)


def test_the_client_and_the_command_line_bring_a_key(server: AppServer, keys: dict[str, str], tmp_path: Path) -> None:
    clip, file = tmp_path / "clip.wav", tmp_path / "key"
    clip.write_bytes(CLIP)
    with Client(server.url, api_key=keys["all"]) as client:
        assert client.classify(clip).tags[0].label == "Speech"
        assert isinstance(list(client.stream(clip, on_lag="wait"))[-1], Summary)
    with Client(server.url) as client, pytest.raises(Unauthorised):
        client.classify(clip)
    with Client(server.url, api_key=keys["live"]) as client, pytest.raises(MissingScope):
        client.classify(clip)
    with pytest.raises(InvalidParameter, match="characters"):
        Client(server.url, api_key="a b")
    file.write_text(keys["all"] + "\n")
    arguments = ["--url", server.url, str(clip)]
    assert run_sonotag("classify", *arguments, cwd=tmp_path, environ={"SONOTAG_API_KEY": keys["all"]}).code == exit_codes.OK
    assert run_sonotag("listen", "--pace", "0", *arguments, "--api-key-file", str(file), cwd=tmp_path).code == exit_codes.OK
    for command in ("classify", "listen"):
        done = run_sonotag(command, *arguments, cwd=tmp_path)
        assert (done.code, "there is no API key" in done.errors) == (exit_codes.FAILURE, True)
        assert "give it to this command with SONOTAG_API_KEY or --api-key-file" in done.errors
        assert done.errors.count("\n") == 1


def test_keys_are_made_listed_and_revoked_on_the_command_line(tmp_path: Path) -> None:
    environ = {"SONOTAG_API_KEYS_FILE": str(tmp_path / "new" / "keys.json")}

    def keys_command(*arguments: str) -> tuple[int, str, str]:
        done = run_sonotag("keys", *arguments, cwd=tmp_path, environ=environ)
        return done.code, done.output.strip(), done.errors

    code, key, _ = keys_command("create", "camera", "--scope", "stream", "--max-streams", "2")
    assert code == exit_codes.OK
    assert re.fullmatch(r"sonotag_[0-9a-f]{8}_[\w-]{43}", key)
    assert keys_command("create", "camera")[0] == exit_codes.START
    assert keys_command("create", "two words")[0] == exit_codes.USAGE
    code, listed, _ = keys_command("list", "--json")
    [row] = json.loads(listed)
    assert (row["name"], row["scopes"], row["limits"]) == ("camera", ["stream"], {"max_streams": 2})
    assert key.rpartition("_")[2] not in listed
    assert keys_command("revoke", "camera")[0] == exit_codes.OK
    assert json.loads((tmp_path / "new" / "keys.json").read_text())["keys"] == []
    assert keys_command("revoke", "camera")[0] == exit_codes.START
