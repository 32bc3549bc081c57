"""A real headless Chromium, its microphone fed from a WAV file, on the service's page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.programs import find_program

WAIT_SECONDS = 60
"""Never reached when all is well, also on a machine that is busy."""

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # No name is found and no other machine reached: what the pages show, they show without the internet.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--window-size=1280,1400",
)


@contextmanager
def running_browser(folder: Path, microphone: Path) -> Iterator[webdriver.Chrome]:
    """Run a browser for as long as the context is open.

    Args:
        folder: Its profile and what it downloads.
        microphone: The WAV file that its microphone plays over and over.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = find_program("chromium")
    downloads = folder / "downloads"
    downloads.mkdir()
    for flag in (*FLAGS, f"--use-file-for-fake-audio-capture={microphone}", f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(find_program("chromedriver", package="chromium-driver"))
    )
    try:
        yield driver
    finally:
        driver.quit()


class LivePage:
    """The service's page in a browser.

    Args:
        driver: The browser.
        url: The service's address.
        is_locked: Whether it wants an API key first.
    """

    def __init__(self, driver: webdriver.Chrome, url: str, *, is_locked: bool = False) -> None:
        self.driver = driver
        driver.get("about:blank")
        self.console_errors()  # what the page before said to the end
        driver.get(url + "/")
        self.wait_for(lambda: self.find("key").is_displayed() if is_locked else self.find("microphone").is_enabled())

    def find(self, name: str) -> WebElement:
        """Return the element with an id."""
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """Return what an element says, also where it is scrolled out of sight."""
        return str(self.find(name).get_property("textContent"))

    def run(self, script: str, *arguments: object) -> Any:
        """Run the body of an async function in the page and return what it returns."""
        wrapped = f"const done = arguments[arguments.length - 1]; (async (...args) => {{ {script} }})(...arguments).then(done)"
        return self.driver.execute_async_script(wrapped, *arguments)

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Block until a condition holds, and return its value."""
        try:
            return WebDriverWait(self.driver, WAIT_SECONDS, 0.1).until(lambda _: condition())
        except Exception as error:
            raise AssertionError(f"it did not come; the page says {self.text('status')!r}, {self.text('note')!r}") from error

    def wait_for_phase(self, phase: str) -> str:
        """Block until the status line is of a phase, and return it."""
        script = "const { dataset, textContent } = document.getElementById('status'); return [dataset.phase, textContent]"

        def text_of_phase() -> str | None:
            now, text = self.driver.execute_script(script)  # both at once: the next phase may be near
            return str(text) if now == phase else None

        return str(self.wait_for(text_of_phase))

    def events(self) -> list[tuple[str, str, str]]:
        """Return label, onset and offset of the table's rows, oldest first."""
        script = (
            "return [...document.querySelectorAll('#events tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        rows = [row for row in self.driver.execute_script(script) if len(row) == 4]
        return [(label, onset, offset) for label, onset, offset, _ in reversed(rows)]

    @property
    def scored_seconds(self) -> float:
        """Up to where there are scores."""
        minutes, seconds = self.text("scored").split(":")
        return 60 * int(minutes) + float(seconds)

    def console_errors(self) -> list[str]:
        """Return what the console was told since the last call, but for what is mere information."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]
