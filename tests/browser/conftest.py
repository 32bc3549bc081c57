"""One browser and one server for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.support.browser import LivePage, running_browser
from tests.support.process import ServiceProcess, running
from tests.support.sounds import speech


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A browser whose microphone hears somebody speak."""
    folder = tmp_path_factory.mktemp("browser")
    with running_browser(folder, speech(folder)) as driver:
        yield driver


@pytest.fixture(scope="session")
def downloads(browser: webdriver.Chrome) -> Path:
    """Where the browser saves files."""
    return Path(browser.capabilities["chrome"]["userDataDir"]).parent / "downloads"


@pytest.fixture(scope="session")
def fake_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service whose model scores by a rule: see tests.support.runners."""
    with running("tests.support.fake_server", cwd=tmp_path_factory.mktemp("fake")) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def page(browser: webdriver.Chrome, fake_service: ServiceProcess) -> Iterator[LivePage]:
    """The page of that service; it must end without a word on the console."""
    page = LivePage(browser, fake_service.url)
    yield page
    assert page.console_errors() == []
