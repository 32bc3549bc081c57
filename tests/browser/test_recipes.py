"""What the README says that a page of one's own does, in a real browser."""

from __future__ import annotations

from tests.support.browser import LivePage
from tests.support.process import ServiceProcess
from tests.support.readme import read_example


def test_the_readmes_page_sends_its_microphone(page: LivePage, fake_service: ServiceProcess) -> None:
    script = read_example("run", "js").replace("http://127.0.0.1:8000", fake_service.url)
    script = script.replace("127.0.0.1:8000", fake_service.url.removeprefix("http://"))
    page.run("globalThis.received = []; console.log = (message) => received.push(message);" + script)

    def window_ends() -> list[float]:
        return list(page.driver.execute_script("return received.filter(({ type }) => type === 'tags').map(({ end }) => end)"))

    page.wait_for(lambda: window_ends()[:3] == [0.5, 1.0, 1.5])
    assert page.driver.execute_script("return received[0].type") == "ready"
    page.driver.get("about:blank")
