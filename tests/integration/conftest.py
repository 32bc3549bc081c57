"""Servers that several tests share; they only ask them, and leave them as they found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.app_server import AppServer, serving
from tests.support.process import ServiceProcess, running


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service as users start it, with the embedded model."""
    with running("service", "serve", cwd=tmp_path_factory.mktemp("embedded")) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def fake_server() -> Iterator[AppServer]:
    """The service around a model that scores by a rule: one-second windows, labels Silence, Speech, Music, Dog."""
    with serving() as server:
        yield server
