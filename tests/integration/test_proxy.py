"""A real nginx, on docker/nginx.conf, in front of a real service; and what the service believes of whom."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
import soundfile
from websockets.sync.client import connect

from tests.support.app_server import serving
from tests.support.nginx import CONFIG, running_nginx
from tests.support.process import ServiceProcess, running
from tests.support.runners import FakeRunner, level

FAKE = "tests.support.fake_server"
RATE = 16_000
PREFIX = "/sonotag"
ORIGIN = "https://tags.example"


def clip(seconds: int) -> bytes:
    """Return a WAV file in which the fake model hears speech."""
    file = io.BytesIO()
    soundfile.write(file, level(1, seconds * RATE), RATE, subtype="PCM_16", format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with running(FAKE, environ={"SONOTAG_CORS_ORIGINS": ORIGIN}, cwd=tmp_path_factory.mktemp("service")) as process:
        process.wait_ready()
        yield process


@pytest.fixture(scope="module")
def proxied(service: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of nginx in front of a service on TCP."""
    with running_nginx(tmp_path_factory.mktemp("nginx"), service.url.removeprefix("http://")) as url:
        yield url


@pytest.fixture(scope="module")
def prefixed_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unix socket of a service under a path of its own."""
    folder = tmp_path_factory.mktemp("unix")
    path = folder / "s.sock"
    with running(FAKE, environ={"SONOTAG_UNIX_SOCKET": str(path), "SONOTAG_ROOT_PATH": PREFIX}, cwd=folder) as process:
        process.wait_ready()
        yield path


@pytest.fixture(scope="module", params=["http://sonotag/", "http://sonotag"], ids=["path taken off", "path left on"])
def prefixed(request: pytest.FixtureRequest, prefixed_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of nginx with that path, in front of that socket."""
    folder = tmp_path_factory.mktemp("nginx")
    with running_nginx(folder, f"unix:{prefixed_socket}", location=f"{PREFIX}/", proxy_pass=request.param) as url:
        yield url + PREFIX


def top_tag(url: str) -> str:
    answer = httpx.post(url + "/v1/classify", content=clip(2))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["tags"][0]["label"])


def stream_three_seconds(url: str) -> list[dict[str, object]]:
    target = url.replace("http", "ws", 1) + f"/v1/stream?encoding=s16le&sample_rate={RATE}"
    with connect(target) as stream:
        stream.send(level(1, 3 * RATE).tobytes())
        stream.send(json.dumps({"type": "stop"}))
        messages = [json.loads(text) for text in stream]
    assert stream.close_code == 1000
    return messages


def check_stream(url: str) -> None:
    messages = stream_three_seconds(url)
    assert [(message["start"], message["end"]) for message in messages if message["type"] == "tags"] == [(0, 1), (1, 2), (2, 3)]
    assert (messages[0]["type"], messages[-1]["type"]) == ("ready", "summary")


def test_a_clip_goes_through_the_proxy(proxied: str) -> None:
    assert top_tag(proxied) == "Speech"


def test_a_stream_goes_through_the_proxy(proxied: str) -> None:
    check_stream(proxied)


def test_the_services_errors_reach_the_client_in_their_own_shape(proxied: str) -> None:
    answer = httpx.post(proxied + "/v1/classify", content=b"no sound")
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_audio"


def test_a_body_larger_than_nginxs_own_default_limit_gets_through(proxied: str) -> None:
    body = clip(40)
    assert len(body) > 1024**2
    answer = httpx.post(proxied + "/v1/classify", content=body, timeout=60)
    assert answer.json()["duration"] == 40


def test_lines_pass_the_proxy_one_by_one_while_the_model_still_works(tmp_path: Path) -> None:
    runner = FakeRunner()
    runner.hold()
    runner.release(1)
    with serving(runner) as server, running_nginx(tmp_path, server.url.removeprefix("http://")) as url:
        headers = {"Accept": "application/x-ndjson"}
        with httpx.stream("POST", url + "/v1/classify", content=clip(12), headers=headers, timeout=30) as answer:
            lines = answer.iter_lines()
            first = json.loads(next(lines))
            assert (first["type"], first["start"], first["end"]) == ("window", 0, 1)
            assert sum(len(call.lengths) for call in runner.calls) < 12, "the model has windows to score still"
            runner.release()
            types = [json.loads(line)["type"] for line in lines]
    assert types == ["window"] * 11 + ["summary"]


def test_under_a_path_a_clip_and_a_stream_go_through(prefixed: str) -> None:
    assert top_tag(prefixed) == "Speech"
    check_stream(prefixed)


def test_under_a_path_the_documentation_finds_its_schema(prefixed: str) -> None:
    page = httpx.get(prefixed + "/docs/", follow_redirects=True)
    assert (page.status_code, str(page.url)) == (200, prefixed + "/docs")
    schema = httpx.get(urljoin(str(page.url), "openapi.json")).json()
    assert schema["servers"] == [{"url": PREFIX}]
    assert "/v1/classify" in schema["paths"]


def test_under_a_path_a_redirect_stays_there(prefixed: str) -> None:
    answer = httpx.get(prefixed + "/v1/labels/", follow_redirects=True)
    assert answer.status_code == 200
    assert str(answer.url) == prefixed + "/v1/labels"


def test_under_a_path_routes_are_counted_without_it(prefixed: str) -> None:
    httpx.get(prefixed + "/v1/labels")
    assert 'route="/v1/labels",status="200"' in httpx.get(prefixed + "/metrics").text


def test_a_service_under_a_path_answers_a_neighbour_who_does_not_know_it(prefixed_socket: Path) -> None:
    transport = httpx.HTTPTransport(uds=str(prefixed_socket))
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        assert client.get("/health/ready").status_code == 200


def redirect_scheme(url: str, socket: Path | None = None, **headers: str) -> str:
    """Return the scheme that the service takes a request for, which its redirects tell."""
    transport = httpx.HTTPTransport(uds=None if socket is None else str(socket))
    with httpx.Client(transport=transport) as client:
        answer = client.get(url + "/v1/labels/", headers=headers)
    assert answer.status_code == 307
    return str(httpx.URL(answer.headers["Location"]).scheme)


def test_forwarded_headers_of_a_proxy_on_this_machine_are_believed(service: ServiceProcess) -> None:
    assert redirect_scheme(service.url, **{"X-Forwarded-Proto": "https"}) == "https"
    assert redirect_scheme(service.url) == "http"


def test_forwarded_headers_of_anybody_else_are_not_believed(tmp_path: Path) -> None:
    with running(FAKE, environ={"SONOTAG_FORWARDED_ALLOW_IPS": "192.0.2.1"}, cwd=tmp_path) as process:
        assert redirect_scheme(process.wait_ready(), **{"X-Forwarded-Proto": "https"}) == "http"


def test_forwarded_headers_are_believed_from_whoever_can_open_the_socket(prefixed_socket: Path) -> None:
    assert redirect_scheme("http://localhost", prefixed_socket, **{"X-Forwarded-Proto": "https"}) == "https"


def test_nginx_replaces_what_a_client_claims(proxied: str) -> None:
    assert redirect_scheme(proxied, **{"X-Forwarded-Proto": "https"}) == "http"


def test_nginx_does_not_log_query_strings(proxied: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("nginx")
    with running_nginx(folder, proxied.removeprefix("http://")) as url:
        httpx.get(url + "/v1/labels?token=secret")
    log = (folder / "access.log").read_text()
    assert "GET /v1/labels" in log
    assert "secret" not in log


def test_an_allowed_origin_may_read_answers(service: ServiceProcess) -> None:
    answer = httpx.get(service.url + "/v1/labels", headers={"Origin": ORIGIN})
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]


def test_an_allowed_origin_may_read_errors_too(service: ServiceProcess) -> None:
    answer = httpx.post(service.url + "/v1/classify", content=b"no sound", headers={"Origin": ORIGIN})
    assert answer.status_code == 415
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_another_origin_gets_no_permission(service: ServiceProcess) -> None:
    answer = httpx.get(service.url + "/v1/labels", headers={"Origin": "https://other.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(("origin", "status"), [(ORIGIN, 200), ("https://other.example", 400)])
def test_a_preflight_is_answered_by_origin(service: ServiceProcess, origin: str, status: int) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Authorization"}
    answer = httpx.options(service.url + "/v1/classify", headers=headers)
    assert answer.status_code == status
    assert answer.headers.get("Access-Control-Allow-Origin") == (origin if status == 200 else None)


def test_without_the_setting_no_origin_is_allowed(tmp_path: Path) -> None:
    with running(FAKE, cwd=tmp_path) as process:
        answer = httpx.get(process.wait_ready() + "/v1/labels", headers={"Origin": ORIGIN})
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_example_sets_what_a_stream_needs() -> None:
    text = CONFIG.read_text()
    assert "proxy_set_header Upgrade $http_upgrade;" in text
    assert all(f"{name} 1h;" in text for name in ("proxy_read_timeout", "proxy_send_timeout"))
