"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import certifi
import pytest

# Before torch is loaded: its threads wait for each other actively, which costs more than they give where tests share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let clients know one authority: httpx reads all those of the web for each client, for 20 ms, and there are thousands."""
    path = tmp_path_factory.mktemp("authorities") / "one.pem"
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----")
    path.write_text(first + end + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield
