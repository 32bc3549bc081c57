"""The page at `/docs` in a real browser that reaches nothing but this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.browser import WAIT_SECONDS
from tests.support.process import running


@pytest.mark.parametrize("root_path", ["", "/sonotag"])
def test_the_interface_is_shown_and_tried_out_without_the_internet(
    browser: webdriver.Chrome, tmp_path: Path, root_path: str
) -> None:
    def press(selector: str) -> None:
        button = wait.until(lambda _: browser.find_element(By.CSS_SELECTOR, selector))
        browser.execute_script("arguments[0].scrollIntoView(); arguments[0].click()", button)

    def said() -> list[Any]:
        return [entry["message"] for entry in browser.get_log("browser")]

    wait = WebDriverWait(browser, WAIT_SECONDS, 0.1)
    browser.get("about:blank")
    said()
    with running("tests.support.fake_server", environ={"SONOTAG_ROOT_PATH": root_path}, cwd=tmp_path) as server:
        url = server.wait_ready() + root_path
        paths = httpx.get(url + "/openapi.json").json()["paths"]
        browser.get(url + "/docs")
        wait.until(lambda _: browser.find_element(By.CSS_SELECTOR, ".opblock"))
        shown = browser.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")
        assert sorted(str(element.get_attribute("data-path")) for element in shown) == sorted(paths)  # each once, by heading
        press("[id$=labels_v1_labels_get] .opblock-summary-control")
        press("[id$=labels_v1_labels_get] .try-out__btn")
        press("[id$=labels_v1_labels_get] .execute")
        wait.until(lambda _: '"label": "Dog"' in browser.find_element(By.CSS_SELECTOR, ".live-responses-table").text)
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(({ name }) => name)")
        assert len(loaded) > 3
        assert [name for name in loaded if not name.startswith(url + "/")] == []
        assert said() == []
