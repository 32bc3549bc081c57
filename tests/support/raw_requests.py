"""Requests that no HTTP client sends: less than they say, and a head that waits for its answer."""

from __future__ import annotations

import socket
from email.message import Message
from http.client import parse_headers
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """What a server sent: the status, the headers and the whole body."""

    status: int
    headers: Message
    body: bytes


def send(url: str, path: str, body: bytes, length: int | None = None, headers: dict[str, str] | None = None) -> socket.socket:
    """Send a request, or its head and some of its body; the answer is the caller's to read."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=30)
    fields = {"Host": "localhost", **(headers or {})}
    if "Transfer-Encoding" not in fields:
        fields["Content-Length"] = str(len(body) if length is None else length)
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.sendall(head.encode() + b"\r\n" + body)
    return connection


def receive(connection: socket.socket) -> Answer:
    """Return the answer once all of it is there: as much as its head says."""
    with connection.makefile("rb") as stream:
        line = stream.readline()
        assert line, "the connection was closed without an answer"
        headers = parse_headers(stream)
        length = int(headers.get("Content-Length", 0))
        body = stream.read(length)
        assert len(body) == length, "the answer was cut off"
        return Answer(int(line.split()[1]), headers, body)


def knock(url: str, path: str = "/v1/classify", length: int = 1000) -> Answer:
    """Send the head of a request alone; return the answer, whose status is 100 where the body is wanted."""
    with send(url, path, b"", length, {"Expect": "100-continue"}) as connection:
        return receive(connection)
