from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from service import exit_codes
from service.api.forwarded import ForwardedHeaders
from service.errors import SettingsError
from service.server import make_config
from service.settings import Settings
from service.settings_source import load_settings
from service.sockets import describe, listen, remove_unix_socket
from tests.support.process import running
from tests.support.tiny_app import create_app

APP = "tests.support.tiny_app"


def settings(**flags: str) -> Settings:
    return load_settings(flags)


def stream_url(url: str) -> str:
    return url.replace("http", "ws") + "/ws"


def test_a_free_port_is_taken_and_the_real_url_printed(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path) as service:
        url = service.wait_ready()
        assert url.startswith("http://127.0.0.1:")
        assert not url.endswith(":0")
        assert httpx.get(url + "/health/ready").status_code == 200
        service.send_signal(signal.SIGTERM)
        assert service.wait() == exit_codes.OK
        assert "lifespan over" in service.stderr


def test_a_stream_under_way_is_told_and_finishes_before_the_service_ends(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path) as service:
        url = service.wait_ready()
        with connect(stream_url(url)) as stream:
            stream.recv()
            service.send_signal(signal.SIGTERM)
            assert stream.recv() == "going_away"
            answer = httpx.get(url + "/health/ready")
            assert (answer.status_code, answer.text) == (503, "draining"), "it serves on while it drains"
            stream.send("stop")
            assert stream.recv() == "the last result"
            with pytest.raises(ConnectionClosed):
                stream.recv()
            assert stream.close_code == 1001
        assert service.wait() == exit_codes.OK
        assert "drain is complete" in service.stderr


def test_control_c_drains_too(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path) as service:
        service.wait_ready()
        service.send_signal(signal.SIGINT)
        assert service.wait() == exit_codes.OK


def test_a_drain_ends_when_its_time_is_up_and_says_so(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ={"SONOTAG_DRAIN_SECONDS": "0.2"}) as service:
        url = service.wait_ready()
        with connect(stream_url(url)) as stream:
            stream.recv()
            service.send_signal(signal.SIGTERM)
            assert stream.recv() == "going_away"
            with pytest.raises(ConnectionClosed):
                stream.recv()
        assert service.wait() == exit_codes.UNFINISHED
        assert "SONOTAG_DRAIN_SECONDS" in service.stderr


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ={"SONOTAG_DRAIN_SECONDS": "3600"}) as service:
        url = service.wait_ready()
        with connect(stream_url(url)) as stream:
            stream.recv()
            service.send_signal(signal.SIGTERM)
            assert stream.recv() == "going_away"
            assert service.insist(signal.SIGTERM) == exit_codes.UNFINISHED
        assert "Traceback" not in service.stderr


def test_signals_that_come_together_are_one(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path) as service:
        url = service.wait_ready()
        with connect(stream_url(url)) as stream:
            stream.recv()
            service.send_signal(signal.SIGINT)
            service.send_signal(signal.SIGTERM)
            assert stream.recv() == "going_away"
            stream.send("stop")
            assert stream.recv() == "the last result"
        assert service.wait() == exit_codes.OK


def test_a_second_signal_with_nothing_under_way_is_a_clean_end(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path) as service:
        service.wait_ready()
        assert service.insist(signal.SIGTERM) == exit_codes.OK
        assert "Traceback" not in service.stderr
        assert "lifespan over" in service.stderr


def test_a_model_that_cannot_be_loaded_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    with running(APP, cwd=tmp_path, environ={"TINY_FAIL": "1"}) as service:
        assert service.wait() == exit_codes.START
        assert service.output == []
        lines = [line for line in service.errors if "altered" in line]
        assert len(lines) == 1
        assert "the service cannot start" in lines[0]
        assert "Traceback" not in service.stderr


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SettingsError, match=rf"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            listen(settings(port=port))


def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(SettingsError, match=r"SONOTAG_HOST is .no\.such\.host\.invalid."):
        listen(settings(host="no.such.host.invalid"))
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1"):
        listen(settings(host="192.0.2.1", port="0", insecure="true"))


@pytest.mark.parametrize(
    ("host", "url", "curl"),
    [("127.0.0.1", "http://127.0.0.1:{}", "http://127.0.0.1:{}"), ("0.0.0.0", "http://0.0.0.0:{}", "http://127.0.0.1:{}")],
)
def test_the_printed_command_reaches_the_service(host: str, url: str, curl: str) -> None:
    wanted = settings(host=host, port="0", insecure="true")
    sockets = listen(wanted)
    try:
        port = sockets[0].getsockname()[1]
        address = describe(wanted, sockets)
        assert address.url == url.format(port)
        assert address.example().endswith(f" {curl.format(port)}/v1/classify")
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system's sockets have no such option")
def test_the_system_ends_connections_of_clients_that_take_nothing() -> None:
    [listening] = listen(settings(port="0"))
    with listening, socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_every_address_of_a_name_gets_the_same_port() -> None:
    wanted = settings(host="localhost", port="0")
    sockets = listen(wanted)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
    finally:
        for sock in sockets:
            sock.close()


def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "sonotag.sock"
    with running(APP, cwd=tmp_path, environ={"SONOTAG_UNIX_SOCKET": str(path)}) as service:
        assert service.wait_ready() == f"unix:{path}"
        command = service.wait_for_line(r"Try it:  (curl --unix-socket \S+) .* (http://\S+)/v1/classify")
        done = subprocess.run(
            [*command[1].split(), "-s", command[2] + "/health/ready"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "ready"
        service.send_signal(signal.SIGTERM)
        assert service.wait() == exit_codes.OK
    assert not path.exists()


def test_a_socket_left_by_a_crash_is_replaced_but_one_in_use_and_a_file_are_not(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    wanted = settings(unix_socket=str(path))
    [first] = listen(wanted)
    with pytest.raises(SettingsError, match="Address already in use"):
        listen(wanted)
    first.close()
    [second] = listen(wanted)
    second.close()
    remove_unix_socket(wanted)
    path.write_text("a file")
    with pytest.raises(SettingsError, match="Address already in use"):
        listen(wanted)
    assert path.read_text() == "a file"


def test_websockets_are_set_up_for_sound() -> None:
    config = make_config(create_app(settings()), settings(max_frame_bytes="33554432"))
    assert config.ws_ping_timeout is None
    assert config.ws_max_size == 64 * 1024**2
    assert not config.ws_per_message_deflate
    assert make_config(create_app(settings()), settings()).ws_max_size == 2 * 1024**2


def test_forwarded_headers_are_believed_by_setting() -> None:
    def proxies(wanted: Settings) -> ForwardedHeaders:
        app = make_config(create_app(wanted), wanted).app
        assert isinstance(app, ForwardedHeaders)
        return app

    assert [proxies(settings()).believes(address) for address in ("127.0.0.1", "::1", "10.1.2.3")] == [True, True, False]
    assert proxies(settings(forwarded_allow_ips="10.0.0.0/8")).believes("10.1.2.3")
    assert not proxies(settings(forwarded_allow_ips="10.0.0.0/8")).believes("127.0.0.1")
