"""Exit with 0 when the service of this container is ready, with 1 when it is not: the image's health check.

It asks where the service listens (SONOTAG_PORT or SONOTAG_UNIX_SOCKET, SONOTAG_TLS_CERTIFICATE_FILE), and needs nothing but the
standard library.
"""

import http.client
import os
import socket
import ssl
import sys

TIMEOUT_SECONDS = 3


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, whose path is the host."""

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def is_ready() -> bool:
    """Ask `/health/ready`."""
    connection: http.client.HTTPConnection
    path = os.environ.get("SONOTAG_UNIX_SOCKET")
    if path:
        connection = UnixConnection(path, timeout=TIMEOUT_SECONDS)
    else:
        port = int(os.environ.get("SONOTAG_PORT") or 8000)
        if os.environ.get("SONOTAG_TLS_CERTIFICATE_FILE"):
            # Its certificate is for other names than this machine's own, and nothing secret is said.
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/ready", headers={"Host": "localhost"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if is_ready() else 1)
