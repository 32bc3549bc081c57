"""The live page of a service with API keys, in a real browser: it asks for one, streams with tokens, and tells nobody."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from selenium import webdriver

from service.access.keys import Limits
from tests.support.browser import LivePage
from tests.support.keys import add_key, remove_key
from tests.support.process import running


def give_key(page: LivePage, key: str) -> None:
    page.find("key").send_keys(key)
    page.find("access").submit()


def test_the_page_asks_for_a_key_and_streams_with_tokens_made_with_it(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, clips = add_key(path, "page", "stream"), add_key(path, "clips", "classify")
    with running("tests.support.fake_server", environ={"SONOTAG_API_KEYS_FILE": str(path)}, cwd=tmp_path) as server:
        page = LivePage(browser, server.wait_ready(), is_locked=True)
        assert page.text("status") == "The server wants an API key."
        give_key(page, "sonotag_00000000_wrong")
        page.wait_for(lambda: "not known here" in page.text("reason"))
        give_key(page, clips)
        page.wait_for(lambda: page.find("microphone").is_enabled())
        page.find("microphone").click()
        page.wait_for(lambda: "needs a key for it" in page.text("reason"))
        give_key(page, key)
        page.find("microphone").click()
        page.wait_for(lambda: page.scored_seconds >= 1)
        assert page.run("return [...Object.values(localStorage), document.cookie, location.href].join()").find(key) < 0
        page.find("stop").click()
        page.wait_for_phase("ended")
        remove_key(path, "page")
        page.wait_for(lambda: page.run("return (await fetch('v1/labels')).status") == 401)
        page.find("microphone").click()
        page.wait_for(lambda: "not known here, or no longer" in page.text("reason"))
        # A browser tells of every answer that is no success; of its policies it has nothing to tell.
        assert [line for line in page.console_errors() if "40" not in line] == []
        assert server.end_cleanly() == 0
        assert key not in server.stderr
        assert "eyJ" not in server.stderr, "a token"


def test_what_a_key_may_not_do_any_more_is_said_and_waited_for_or_the_end(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    # The models, their labels, and once more the labels when somebody wants to listen: no request is left for a token.
    often = add_key(path, "often", limits=Limits(requests_per_minute=3))
    long = add_key(path, "long", limits=Limits(audio_seconds_per_day=1))
    with running("tests.support.fake_server", environ={"SONOTAG_API_KEYS_FILE": str(path)}, cwd=tmp_path) as server:
        url = server.wait_ready()
        page = LivePage(browser, url, is_locked=True)
        give_key(page, often)
        page.wait_for(lambda: page.find("microphone").is_enabled() and page.find("window").get_property("value"))
        page.find("microphone").click()
        said = page.wait_for_phase("waiting")
        assert said.startswith("This API key has made 3 of at most 3 requests in the last minute. Reconnecting in ")
        page.run("sessionStorage.clear()")
        page = LivePage(browser, url, is_locked=True)
        give_key(page, long)
        page.wait_for(lambda: page.find("microphone").is_enabled())
        page.find("microphone").click()
        said = page.wait_for_phase("problem")
        assert said.startswith("Ended by the server: this API key has 0.0 s of sound left of 1 s in 24 hours")


class Elsewhere(BaseHTTPRequestHandler):
    """An empty page without any policy, as anybody can put somewhere."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_page_elsewhere_is_told_that_it_may_not_stream(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """On a service without keys; another port is another origin."""
    with (
        running("tests.support.fake_server", cwd=tmp_path) as server,
        ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere,
    ):
        thread = threading.Thread(target=elsewhere.serve_forever)
        thread.start()
        try:
            browser.get(f"http://127.0.0.1:{elsewhere.server_port}/")
            target = server.wait_ready().replace("http", "ws", 1) + "/v1/stream?encoding=s16le&sample_rate=16000"
            assert browser.execute_async_script(TRY_STREAM, target) == ["error forbidden_origin", "close 4403"]
        finally:
            browser.get("about:blank")
            elsewhere.shutdown()
            thread.join()


TRY_STREAM = """
  const [target, done] = arguments;
  const told = [];
  const socket = new WebSocket(target);
  socket.onmessage = ({ data }) => told.push(`${JSON.parse(data).type} ${JSON.parse(data).code}`);
  socket.onclose = ({ code }) => done([...told, `close ${code}`]);
"""
