"""The page at `/`, as people use it: in a real browser, on a real service."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from dotenv import dotenv_values
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from websockets.sync.client import connect

from service.postprocess.event_config import EventConfig
from service.settings import Settings
from tests.support.browser import LivePage
from tests.support.process import ServiceProcess, running
from tests.support.runners import level
from tests.support.shared import REPOSITORY

FAKE = "tests.support.fake_server"
RATE = 16_000
SCREENSHOTS = REPOSITORY / "build" / "screenshots"


def second(label_id: int, share: float = 1.0) -> np.ndarray:
    """Return a second in which the fake model hears a label with this score, and silence with the rest."""
    heard = round(share * RATE)
    return np.concatenate([level(label_id, heard), level(0, RATE - heard)])


@pytest.fixture(scope="session")
def barking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds: silence, a dog for two with a score of 0.7, silence, speech."""
    path = tmp_path_factory.mktemp("sound") / "barking.wav"
    waveform = np.concatenate([second(0), second(3, 0.7), second(3, 0.7), second(0), second(1)])
    soundfile.write(path, waveform, RATE, subtype="PCM_16")
    return path


ALL_EVENTS = [
    ("Silence", "0:00.00", "0:01.00"),
    ("Dog", "0:01.00", "0:03.00"),
    ("Silence", "0:03.00", "0:04.00"),
    ("Speech", "0:04.00", "0:05.00"),
]


def play(page: LivePage, sound: Path) -> None:
    """Let the page stream a file to its end."""
    page.find("file").send_keys(str(sound))
    page.wait_for_phase("live")
    page.wait_for_phase("ended")
    assert page.text("status") == "Done."


@pytest.fixture(scope="module")
def played_tab(browser: webdriver.Chrome, fake_service: ServiceProcess, barking: Path) -> tuple[str, LivePage]:
    """A tab of its own in which the file was played, and its handle."""
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    page = LivePage(browser, fake_service.url)
    play(page, barking)
    handle = browser.current_window_handle
    browser.switch_to.window(first)
    return handle, page


@pytest.fixture
def played(played_tab: tuple[str, LivePage]) -> Iterator[LivePage]:
    """The page after the file, with the server's thresholds."""
    handle, page = played_tab
    first = page.driver.current_window_handle
    page.driver.switch_to.window(handle)
    page.find("reset").click()
    page.wait_for(lambda: page.events() == ALL_EVENTS)
    yield page
    assert page.console_errors() == []
    page.driver.switch_to.window(first)


def test_a_file_gives_the_events_that_rest_finds_in_it(played: LivePage, fake_service: ServiceProcess, barking: Path) -> None:
    answer = httpx.post(fake_service.url + "/v1/classify", params={"events": True}, content=barking.read_bytes())
    rest = [(event["label"], event["onset"], event["offset"]) for event in answer.json()["events"]]
    found = [(label, float(onset[2:]), float(offset[2:])) for label, onset, offset in played.events()]
    assert found == sorted(rest, key=lambda event: event[1])
    assert played.text("heard") == played.text("scored") == "0:05.0"
    assert played.text("dropped") == "0.0 s"


def test_a_threshold_moved_by_keyboard_removes_an_event_and_brings_it_back(played: LivePage) -> None:
    slider = played.find("onset")
    slider.send_keys(Keys.ARROW_RIGHT * 21)
    assert slider.get_property("value") == "0.71"
    played.wait_for(lambda: [event for event in ALL_EVENTS if event[0] != "Dog"] == played.events())
    slider.send_keys(Keys.ARROW_LEFT * 2)
    played.wait_for(lambda: played.events() == ALL_EVENTS)


def test_a_threshold_of_one_label_changes_that_label_alone(played: LivePage) -> None:
    Select(played.find("label")).select_by_visible_text("Silence")
    played.find("own-onset").send_keys(Keys.END)
    played.find("own-offset").send_keys(Keys.END)
    Select(played.find("label")).select_by_visible_text("Dog")
    played.find("own-onset").send_keys(Keys.END)
    played.wait_for(lambda: played.events() == [event for event in ALL_EVENTS if event[0] != "Dog"])
    config = json.loads(played.text("config"))
    assert config["per_label"] == {"Silence": {"onset_threshold": 1, "offset_threshold": 1}, "Dog": {"onset_threshold": 1}}
    played.driver.find_element(By.CSS_SELECTOR, "[aria-label='Remove the thresholds of Dog']").click()
    played.wait_for(lambda: played.events() == ALL_EVENTS)


def test_the_thresholds_are_copied_as_json_and_as_a_setting(page: LivePage, tmp_path: Path) -> None:
    page.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    Select(page.find("label")).select_by_visible_text("Dog")
    page.find("own-offset").send_keys(Keys.ARROW_RIGHT * 30)
    copied = []
    for kind in ("json", "setting"):
        page.driver.find_element(By.CSS_SELECTOR, f"[data-copy={kind}]").click()
        page.wait_for(lambda: page.text("copied") == "Copied.")
        copied.append(page.run("return navigator.clipboard.readText()"))
    expected = EventConfig.model_validate({"per_label": {"Dog": {"onset_threshold": 0.65, "offset_threshold": 0.65}}})
    assert EventConfig.model_validate_json(copied[0]) == expected
    (tmp_path / ".env").write_text(copied[1] + "\n")
    value = dotenv_values(tmp_path / ".env")["SONOTAG_EVENTS"]
    assert Settings(_env_file=None, events=value).events == expected


def test_a_labels_apostrophe_does_not_end_the_settings_quotes(page: LivePage) -> None:
    script = 'const { eventsSetting } = await import("./web/exports.js"); return eventsSetting(args[0]);'
    config = {"per_label": {"Ship's horn": {"max_gap": 1}}}
    setting = page.run(script, config)
    assert setting.count("'") == 2
    assert json.loads(setting.removeprefix("SONOTAG_EVENTS=").strip("'")) == config


def read_sed_scores(text: str) -> list[list[str]]:
    """Return a table of scores as sed_scores_eval 0.0.4 reads it: as pandas does, then by `validate_score_dataframe`.

    It is no dependency of the tests: its own bring 750 MB and a C++ compiler's work, for these rules.
    """
    table = list(csv.reader(io.StringIO(text), dialect="excel-tab"))
    assert table[0][:2] == ["onset", "offset"]
    assert len(table[0]) > 2
    assert len(set(table[0])) == len(table[0]), "pandas gives the second one another name"
    assert not any("\\" in label for label in table[0])
    assert {len(row) for row in table} == {len(table[0])}
    times = [(float(row[0]), float(row[1])) for row in table[1:]]
    assert all(onset < offset for onset, offset in times)
    assert [onset for onset, _ in times[1:]] == [offset for _, offset in times[:-1]], "it refuses scores with holes"
    return table


def test_any_label_and_a_hole_in_the_sound_can_be_saved_for_sed_scores_eval(page: LivePage) -> None:
    script = """
        const [{ ScoreHistory }, { sedScoresTsv }] = [await import("./web/history.js"), await import("./web/exports.js")];
        const history = new ScoreHistory(args[0], 16000);
        for (const [start, end] of [[0, 1], [0, 2.00001], [5, 6], [5.5, 6.5]]) {
          history.add({ start, end, tags: [{ id: 1, score: 0.5 }] }, 0);
        }
        return sedScoresTsv(history);
    """
    labels = ["Ship's horn", 'The "A", a tone', "Baby cry, infant cry", "a\tb"]
    table = read_sed_scores(page.run(script, labels))
    assert table[0][2:] == labels
    assert [row[:2] for row in table[1:]] == [["0", "1"], ["1", "2"], ["2", "5"], ["5", "5.5"], ["5.5", "6"], ["6", "6.5"]]
    assert [row[3] for row in table[1:]] == ["0.5", "0.5", "0", "0.5", "0.5", "0.5"]


def test_scores_and_events_are_saved(played: LivePage, downloads: Path) -> None:
    def save(name: str) -> str:
        path = downloads / f"sonotag-{name}"
        path.unlink(missing_ok=True)
        played.driver.find_element(By.CSS_SELECTOR, f"[data-save='{name}']").click()
        played.wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
        return path.read_text()

    labels = ["Silence", "Speech", "Music", "Dog"]
    scores = list(csv.reader(io.StringIO(save("scores.csv"))))
    assert scores[0] == ["start", "end", *labels]
    assert [row[:2] for row in scores[1:]] == [[str(start), str(start + 1)] for start in range(5)]
    assert [[float(value) for value in row[2:]] for row in scores[2:4]] == [pytest.approx([0.3, 0, 0, 0.7])] * 2
    table = read_sed_scores(save("scores.tsv"))
    assert table[0] == ["onset", "offset", *labels]
    assert [[float(value) for value in row] for row in table[1:]] == [[float(value) for value in row] for row in scores[1:]]
    events = list(csv.DictReader(io.StringIO(save("events.csv"))))
    assert events[1] == {"label": "Dog", "onset": "1", "offset": "3", "peak": events[1]["peak"]}
    assert float(events[1]["peak"]) == pytest.approx(0.7)
    assert save("labels.txt").splitlines()[1] == "1\t3\tDog"


def other_errors(page: LivePage) -> list[str]:
    """Return what the console was told, but for what a server that is not there, or not ready yet, makes a browser say."""
    expected = (
        "ERR_CONNECTION",
        "WebSocket",
        "/health/ready - Failed to load resource: the server responded with a status of 503",
    )
    return [line for line in page.console_errors() if not any(words in line for words in expected)]


def test_a_file_goes_on_where_it_was_when_the_server_is_killed_and_started_again(
    browser: webdriver.Chrome, barking: Path, tmp_path: Path
) -> None:
    with running(FAKE, cwd=tmp_path) as first:
        url = first.wait_ready()
        page = LivePage(browser, url)
        page.find("file").send_keys(str(barking))
        page.wait_for(lambda: page.scored_seconds >= 2)
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert "Reconnecting in" in page.wait_for_phase("waiting")
    page.wait_for(lambda: "cannot be reached" in page.text("status"))
    with running(FAKE, environ={"SONOTAG_PORT": url.rpartition(":")[2]}, cwd=tmp_path) as second_server:
        second_server.wait_ready()
        page.wait_for_phase("ended")
        page.wait_for(lambda: page.events() == ALL_EVENTS)
        assert page.text("dropped") == "0.0 s"
    # A browser tells of every connection that it could not make; nothing else may be wrong.
    assert other_errors(page) == []


def test_a_microphone_goes_on_when_the_server_is_killed_and_started_again(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with running(FAKE, cwd=tmp_path) as first:
        url = first.wait_ready()
        page = LivePage(browser, url)
        page.find("microphone").click()
        page.wait_for(lambda: page.scored_seconds >= 1)
        first.send_signal(signal.SIGKILL)
        first.wait()
    page.wait_for_phase("waiting")
    before = page.scored_seconds
    with running(FAKE, environ={"SONOTAG_PORT": url.rpartition(":")[2]}, cwd=tmp_path) as second_server:
        second_server.wait_ready()
        page.wait_for_phase("live")
        page.wait_for(lambda: page.scored_seconds > before + 1)
        assert page.text("dropped") == "0.0 s", "what was heard meanwhile was kept"
        page.find("stop").click()
        page.wait_for_phase("ended")
    assert other_errors(page) == []


def test_a_refused_stream_is_explained_and_tried_again(browser: webdriver.Chrome, barking: Path, tmp_path: Path) -> None:
    with running(FAKE, environ={"SONOTAG_MAX_STREAMS": "1"}, cwd=tmp_path) as server:
        url = server.wait_ready()
        page = LivePage(browser, url)
        with connect(url.replace("http", "ws", 1) + f"/v1/stream?encoding=s16le&sample_rate={RATE}"):
            page.find("file").send_keys(str(barking))
            assert page.wait_for_phase("waiting").startswith("The server is full: 1 of 1 streams are open.")
        page.wait_for_phase("live")


def test_what_a_model_is_too_slow_for_is_shown_as_dropped(browser: webdriver.Chrome, tmp_path: Path) -> None:
    environ = {"FAKE_SECONDS": "1.2", "SONOTAG_MAX_LAG_SECONDS": "1"}
    with running(FAKE, environ=environ, cwd=tmp_path) as server:
        page = LivePage(browser, server.wait_ready())
        page.find("hop").clear()
        page.find("hop").send_keys("0.1")
        page.find("microphone").click()
        page.wait_for(lambda: float(page.text("dropped").split()[0]) > 0)
        assert page.text("note") == "Some sound was not scored: the model was too slow."
        assert page.console_errors() == []


def test_a_file_that_is_no_sound_is_a_message(page: LivePage, tmp_path: Path) -> None:
    path = tmp_path / "letter.wav"
    path.write_text("Dear Sir or Madam")
    page.find("file").send_keys(str(path))
    assert page.wait_for_phase("problem").startswith("This browser cannot read letter.wav as sound.")


def test_a_sound_too_short_to_be_scored_is_said_to_be(page: LivePage, tmp_path: Path) -> None:
    path = tmp_path / "click.wav"
    soundfile.write(path, level(3, RATE // 100), RATE, subtype="PCM_16")
    page.find("file").send_keys(str(path))
    page.wait_for(lambda: page.text("status") == "Done. Nothing was scored: the sound is too short.")


def test_a_new_sound_begins_with_an_empty_page(page: LivePage, barking: Path) -> None:
    play(page, barking)
    assert len(page.find("now").find_elements(By.TAG_NAME, "span")) > 0
    page.find("file").send_keys(str(barking))
    page.wait_for(lambda: not page.find("file").is_enabled() and page.text("now") == "Nothing was scored yet.")
    page.wait_for_phase("ended")


def test_a_server_that_is_away_when_somebody_wants_to_listen_is_a_message(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with running(FAKE, cwd=tmp_path) as server:
        page = LivePage(browser, server.wait_ready())
        assert server.end_cleanly() == 0
    page.find("microphone").click()
    assert page.wait_for_phase("problem") == "The server cannot be reached."


def test_the_page_works_under_a_path_of_a_proxys(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with running(FAKE, environ={"SONOTAG_ROOT_PATH": "/sonotag"}, cwd=tmp_path) as server:
        page = LivePage(browser, server.wait_ready() + "/sonotag")
        page.find("microphone").click()
        page.wait_for(lambda: page.scored_seconds >= 1)
        assert page.console_errors() == []


def test_every_control_has_a_name(page: LivePage) -> None:
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    kinds = {"button", "slider", "spinbutton", "combobox", "textbox", "link", "img", "image"}
    controls = [node for node in nodes if node.get("role", {}).get("value") in kinds and not node.get("ignored")]
    assert len(controls) > 20
    assert [node for node in controls if not node.get("name", {}).get("value")] == []


def test_all_controls_are_reached_by_keyboard_in_their_order(page: LivePage) -> None:
    reached: list[object] = []
    while "reset" not in reached and len(reached) < 50:
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        reached.append(page.driver.switch_to.active_element.get_property("id"))
    order = ["model", "window", "hop", "microphone", "file", "onset", "offset", "duration", "gap", "label", "reset"]
    assert [name for name in reached if name in order] == order


@pytest.fixture(scope="module")
def speaking(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePage]:
    """The page while the embedded model listens to the microphone, in which somebody speaks."""
    with running("service", "serve", cwd=tmp_path_factory.mktemp("embedded")) as server:
        page = LivePage(browser, server.wait_ready())
        page.find("microphone").click()
        page.wait_for(lambda: page.scored_seconds >= 4)
        yield page
        page.find("stop").click()
        page.wait_for_phase("ended")
        assert page.console_errors() == []


def test_speech_in_the_microphone_is_shown_as_speech(speaking: LivePage) -> None:
    assert speaking.driver.find_element(By.CSS_SELECTOR, "#now li").text.startswith("Speech")
    speaking.wait_for(lambda: ("Speech", "0:00.00") in [event[:2] for event in speaking.events()])
    assert speaking.text("announcer").startswith("Speech at 0:00")
    assert speaking.text("lag").endswith(" ms")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width"), [("wide", 1280), ("narrow", 360)])
def test_the_page_fits(speaking: LivePage, scheme: str, name: str, width: int) -> None:
    driver = speaking.driver
    emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        before = speaking.scored_seconds
        speaking.wait_for(lambda: speaking.scored_seconds > before)
        assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        page_height = driver.execute_script("return document.documentElement.scrollHeight")
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics | {"height": page_height})
        speaking.run("await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        assert driver.save_screenshot(str(SCREENSHOTS / f"{name}-{scheme}.png"))
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
