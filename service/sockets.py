"""The sockets that the service listens on, and how people and programs reach them."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import shlex
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import SettingsError
from service.logs import log_event
from service.settings import Settings

_logger = logging.getLogger(__name__)

BACKLOG = 2048
# Twice what a stream's sender waits (`service.api.websocket.SEND_SECONDS`), which is the first to give up.
_DEAF_PEER_SECONDS = 60
_PACKAGE = Path(__file__).resolve().parent
_EXAMPLE = _PACKAGE.parent / "examples" / "speech.wav"
_AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service listens.

    Attributes:
        url: For people: `http://127.0.0.1:8000`, or `unix:/run/sonotag.sock`.
        curl: The command and URL that reach it, without a path: `curl http://127.0.0.1:8000`.
    """

    url: str
    curl: tuple[str, str]

    def example(self) -> str:
        """Return a command that classifies a sound; it works as it stands where the repository's examples are."""
        file = _relative(_EXAMPLE) if _EXAMPLE.is_file() else "SOUND.wav"
        return f"{self.curl[0]} -F file=@{file} {self.curl[1]}/v1/classify"


def listen(settings: Settings) -> list[socket.socket]:
    """Bind and listen. The caller owns the sockets.

    Returns:
        One socket, or one for each address of a host name that has several.

    Raises:
        SettingsError: The address cannot be had, or others could reach it and nobody would be asked for a key.
    """
    if settings.unix_socket is not None:
        return [_listen_unix(settings.unix_socket)]
    addresses = _resolve(settings.host, settings.port)
    if settings.is_open and not settings.insecure:
        _check_exposure(settings.host, addresses)
    return _listen_tcp(settings.host, settings.port, addresses)


def describe(settings: Settings, sockets: Sequence[socket.socket]) -> Address:
    """Return where the service can be reached, with the port that was really taken."""
    curl = "curl" if settings.is_open else 'curl -H "Authorization: Bearer $SONOTAG_API_KEY"'
    if settings.unix_socket is not None:
        return Address(
            f"unix:{settings.unix_socket}", (f"{curl} --unix-socket {_quote(settings.unix_socket)}", "http://localhost")
        )
    port = sockets[0].getsockname()[1]
    reached = _WILDCARDS.get(settings.host, settings.host)
    scheme = "http" if settings.tls_certificate_file is None else "https"
    return Address(_url(scheme, settings.host, port), (curl, _url(scheme, reached, port)))


def announce(address: Address) -> None:
    """Tell whoever started the service where it is, on standard output; the log is on standard error."""
    print(f"Sonotag is ready on {address.url}\nTry it:  {address.example()}", flush=True)
    log_event(_logger, logging.INFO, "ready", url=address.url)


def remove_unix_socket(settings: Settings) -> None:
    """Remove the unix socket's file, if there is one; nobody listens on it any more."""
    if settings.unix_socket is not None:
        settings.unix_socket.unlink(missing_ok=True)


def _give_up_on_deaf_peers(sock: socket.socket) -> None:
    """Let the kernel end connections (accepted ones inherit it) whose client takes nothing, or has gone without a word.

    A stream whose client does not read is given up, but its unsent messages would keep the connection open for ever.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAF_PEER_SECONDS * 1000)


def _resolve(host: str, port: int) -> Sequence[_AddressInfo]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(f"SONOTAG_HOST is {host!r}: it is no address of this machine ({error.strerror})") from error


def _check_exposure(host: str, addresses: Sequence[_AddressInfo]) -> None:
    """Refuse to let everybody in from everywhere unless that is what is wanted."""
    if all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in addresses):
        return
    raise SettingsError(
        f"SONOTAG_HOST is {host!r}, which other machines can reach, and there are no API keys. Either make a key "
        "(sonotag keys create NAME --api-keys-file FILE) and set SONOTAG_API_KEYS_FILE, or let everybody in with --insecure "
        "(SONOTAG_INSECURE=true)"
    )


def _listen_tcp(host: str, port: int, found: Sequence[_AddressInfo]) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, protocol)
        try:
            _give_up_on_deaf_peers(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # Otherwise :: would take the IPv4 port too, and 0.0.0.0 beside it could not be bound.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # A host name with two addresses gets the same free port on both.
            taken = sockets[0].getsockname()[1] if sockets else port
            sock.bind((address[0], taken, *address[2:]))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            failure = error
            if error.errno == errno.EADDRNOTAVAIL:
                continue  # `localhost` names ::1 also where there is no IPv6
            break
        sockets.append(sock)
        failure = None
    if failure is not None or not sockets:
        for sock in sockets:
            sock.close()
        reason = os.strerror(failure.errno) if failure is not None and failure.errno else str(failure)
        raise SettingsError(f"cannot listen on {host} port {port}: {reason} (SONOTAG_HOST, SONOTAG_PORT)") from failure
    return sockets


def _listen_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            path.unlink()
        sock.bind(str(path))
        # As uvicorn does: the folder's permissions decide who reaches it, and a proxy runs as another user.
        path.chmod(0o666)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SettingsError(f"cannot listen on {path}: {reason} (SONOTAG_UNIX_SOCKET)") from error
    return sock


def _is_stale(path: Path) -> bool:
    """Whether a socket lies there on which nobody listens, as after a crash. Any other file stays and is an error."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _relative(path: Path) -> str:
    here = Path.cwd()
    return _quote(path.relative_to(here) if path.is_relative_to(here) else path)


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
