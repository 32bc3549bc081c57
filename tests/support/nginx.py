"""A real nginx on the example configuration of the repository, on a free loopback port."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.programs import find_program
from tests.support.shared import REPOSITORY

CONFIG = REPOSITORY / "docker" / "nginx.conf"

# One process, so that it runs as this user, who alone may open what lies in the test's folder.
_MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 64; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
}}
"""


def site(replacements: dict[str, str]) -> str:
    """Return the example configuration with each of these changes made once; each must be possible."""
    text = CONFIG.read_text()
    for old, new in replacements.items():
        assert text.count(old) == 1, f"{CONFIG.name} has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


@contextmanager
def running_nginx(folder: Path, upstream: str, *, location: str = "/", proxy_pass: str = "http://sonotag") -> Iterator[str]:
    """Run nginx in front of a service; yield its URL.

    Args:
        folder: For its files.
        upstream: Where the service is: `127.0.0.1:8000`, or `unix:/path`.
        location: The path that it serves.
        proxy_pass: As in the configuration; with a slash at the end the path is taken off.
    """
    program = find_program("nginx", package="nginx-light")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes = {
        "server 127.0.0.1:8000;": f"server {upstream};",
        "listen 80;": f"listen 127.0.0.1:{port};",
        "/var/log/nginx/access.log": str(folder / "access.log"),
        "    location / {": f"    location {location} {{",
        "        proxy_pass http://sonotag;": f"        proxy_pass {proxy_pass};",
    }
    config = folder / "nginx.conf"
    config.write_text(_MAIN.format(folder=folder, site=site(changes)))
    command = [program, "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        # It says its version once it listens.
        for line in process.stderr:
            said.append(line)
            if "nginx/" in line:
                break
        else:
            pytest.fail("nginx ended at once:\n" + "".join(said))
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
