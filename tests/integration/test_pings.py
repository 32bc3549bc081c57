"""Websocket pings, which uvicorn answers before the application hears of them, from clients that do nothing else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from tests.support.app_server import AppServer, serving
from tests.support.websocket import stream_url

RAW = {"encoding": "s16le", "sample_rate": 16_000}
PINGS = 30_000
PAYLOAD = 100


class Pinger:
    """A client that reads when it is told to.

    Args:
        server: Listens on a unix socket, of which the kernel keeps little, and nothing that was not taken by either side.
    """

    def __init__(self, server: AppServer) -> None:
        self._protocol = ClientProtocol(parse_uri(stream_url("ws://localhost", RAW)))
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(server.settings.unix_socket))
        self._protocol.send_request(self._protocol.connect())
        self._send()
        self._frames = self._read()
        assert json.loads(bytes(next(self._frames).data))["type"] == "ready"

    def ping(self, *payloads: bytes) -> None:
        for payload in payloads:
            self._protocol.send_ping(payload)
        self._send()

    def send_pong(self) -> None:
        self._protocol.send_pong(b"")
        self._send()

    def send_empty_pieces(self, count: int) -> None:
        self._protocol.send_text(b"", fin=False)
        for _ in range(count):
            self._protocol.send_continuation(b"", fin=False)
        self._send()

    def until(self, opcode: Opcode) -> Iterator[Frame]:
        """Read on, as far as the first frame of a kind."""
        for frame in self._frames:
            yield frame
            if frame.opcode is opcode:
                return

    def _send(self) -> None:
        self.socket.sendall(b"".join(self._protocol.data_to_send()))

    def _read(self) -> Iterator[Frame]:
        while data := self.socket.recv(65_536):
            self._protocol.receive_data(data)
            yield from (event for event in self._protocol.events_received() if isinstance(event, Frame))


@contextmanager
def pinging(folder: Path, **settings: float) -> Iterator[tuple[AppServer, Pinger]]:
    with serving(unix_socket=folder / "socket", **settings) as server:
        pinger = Pinger(server)
        with pinger.socket:
            yield server, pinger


def test_pings_of_a_client_that_does_not_read_take_no_memory_and_the_last_one_is_answered(tmp_path: Path) -> None:
    with pinging(tmp_path, max_messages_per_second=1_000_000) as (server, pinger):
        payloads = [str(index).encode().rjust(PAYLOAD) for index in range(PINGS)]
        for start in range(0, PINGS, 100):
            pinger.ping(*payloads[start : start + 100])
        assert server.num_unsent_bytes < PINGS * PAYLOAD / 10
        answered = [next(iter(pinger.until(Opcode.PONG))).data]
        while answered[-1] != payloads[-1]:
            [*_, pong] = pinger.until(Opcode.PONG)
            answered.append(pong.data)
        assert len(answered) < PINGS / 2
        assert answered == sorted(answered)


@pytest.mark.parametrize("kind", ["ping", "pong", "piece"])
def test_a_flood_of_frames_without_content_ends_its_stream(kind: str, tmp_path: Path) -> None:
    with pinging(tmp_path, max_messages_per_second=1) as (_, pinger):
        for _ in range(11 if kind != "piece" else 1):
            match kind:
                case "ping":
                    pinger.ping(b"")
                case "pong":
                    pinger.send_pong()
                case "piece":
                    pinger.send_empty_pieces(11)
        *_, last, close = pinger.until(Opcode.CLOSE)
        told = json.loads(bytes(last.data))
        assert (told["code"], told["fatal"]) == ("too_many_messages", True)
        assert "pings" in told["message"]
        assert int.from_bytes(close.data[:2]) == 4429
