"""The page goes on with its stream where the connection breaks: in a real browser, over a network that is cut."""

from __future__ import annotations

import csv
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from selenium import webdriver
from websockets.sync.client import connect

from tests.support.browser import LivePage
from tests.support.process import ServiceProcess, running
from tests.support.runners import level
from tests.support.websocket import stream_url
from tests.support.wire import FarWire, far_wired

RATE = 16_000
Row = tuple[float, ...]


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds in which the label changes every 0.7 s, so that each window has scores of its own."""
    path = tmp_path_factory.mktemp("sound") / "levels.wav"
    waveform = np.concatenate([level(label, round(0.7 * RATE)) for label in (1, 3, 2, 1, 3, 1, 2, 3, 1)])
    soundfile.write(path, waveform[: 6 * RATE], RATE, subtype="PCM_16")
    return path


@contextmanager
def wired_page(
    browser: webdriver.Chrome, folder: Path, module: str = "tests.support.fake_server", **environ: str
) -> Iterator[tuple[LivePage, FarWire, ServiceProcess]]:
    """Run a service and open its page over a wire."""
    with running(module, environ=environ, cwd=folder) as server, far_wired(server.wait_ready()) as wire:
        page = LivePage(browser, wire.url)
        yield page, wire, server
        browser.get("about:blank")


def scores(page: LivePage) -> list[Row]:
    """Return the windows that the page has, as it would save them: start, end, a score a label."""
    script = """
        const [exports, text] = [await import("./web/exports.js"), []];
        URL.createObjectURL = (blob) => { text.push(blob.text()); return "#"; };
        document.querySelector("[data-save='scores.csv']").click();
        return (await Promise.all(text)).join("");
    """
    rows = list(csv.reader(io.StringIO(page.run(script))))
    return [tuple(float(value) for value in row) for row in rows[1:]]


def num_scored(server: ServiceProcess) -> float:
    """Return how many windows the model of a service has scored."""
    lines = httpx.get(server.url + "/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("sonotag_windows_scored_total{"))


def play(page: LivePage, sound: Path, hop: float) -> None:
    page.find("hop").clear()
    page.find("hop").send_keys(str(hop))
    page.find("file").send_keys(str(sound))


@pytest.fixture(scope="module")
def unbroken(browser: webdriver.Chrome, levels: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """What the page has of the file over a connection that holds, with a hop of 0.5 s."""
    with wired_page(browser, tmp_path_factory.mktemp("unbroken")) as (page, _, server):
        play(page, levels, 0.5)
        page.wait_for_phase("live")
        page.wait_for_phase("ended")
        assert num_scored(server) == 12
        return scores(page)


def test_a_stream_whose_connection_breaks_again_and_again_goes_on_and_nothing_is_scored_twice(
    browser: webdriver.Chrome, levels: Path, unbroken: list[Row], tmp_path: Path
) -> None:
    with wired_page(browser, tmp_path) as (page, wire, server):
        play(page, levels, 0.5)
        for second in (1, 3):
            page.wait_for(lambda second=second: page.scored_seconds >= second)
            wire.cut()
            page.wait_for_phase("waiting")
            page.wait_for_phase("live")
            assert page.text("note").endswith("the stream goes on. No sound is lost.")
        assert page.wait_for_phase("ended") == "Done."
        assert scores(page) == unbroken
        assert num_scored(server) == len(unbroken)
        assert page.text("dropped") == "0.0 s"


def test_a_new_stream_takes_the_place_of_one_that_the_server_does_not_have_any_more(
    browser: webdriver.Chrome, levels: Path, unbroken: list[Row], tmp_path: Path
) -> None:
    with wired_page(browser, tmp_path, SONOTAG_RESUME_SECONDS="0.001") as (page, wire, _):
        play(page, levels, 0.5)
        page.wait_for(lambda: page.scored_seconds >= 3)
        wire.cut()
        page.wait_for(lambda: "a new stream goes on, for the server does not have the old one" in page.text("note"))
        assert page.text("note").endswith("No sound is lost.")
        assert page.wait_for_phase("ended") == "Done."
        assert scores(page) == unbroken
        assert page.text("dropped") == "0.0 s"


def test_a_new_stream_takes_the_place_of_one_whose_worker_was_killed(
    browser: webdriver.Chrome, levels: Path, unbroken: list[Row], tmp_path: Path
) -> None:
    with wired_page(browser, tmp_path, "tests.support.fake_service", SONOTAG_WORKERS="2") as (page, _, server):
        play(page, levels, 0.5)
        page.wait_for(lambda: page.scored_seconds >= 3)
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
        page.wait_for_phase("waiting")
        page.wait_for(lambda: "a new stream goes on" in page.text("note"))
        assert page.wait_for_phase("ended") == "Done."
        assert scores(page) == unbroken
        assert page.text("dropped") == "0.0 s"
        assert page.text("gaps") == ""


def listen_and_cut(page: LivePage, wire: FarWire) -> str:
    """Let the microphone be heard for a second, take the network away, and return what the page says then."""
    page.find("microphone").click()
    page.wait_for(lambda: page.scored_seconds >= 1)
    wire.cut(is_up=False)
    return page.wait_for_phase("waiting")


def test_what_the_microphone_hears_while_the_network_is_down_is_scored_after(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with wired_page(browser, tmp_path) as (page, wire, server):
        assert listen_and_cut(page, wire).endswith("The last 35 s of sound are kept.")
        heard = heard_seconds(page)
        page.wait_for(lambda: heard_seconds(page) >= heard + 3)
        wire.mend()
        page.wait_for(lambda: page.scored_seconds >= heard + 4)
        page.find("stop").click()
        assert page.wait_for_phase("ended") == "Done."
        rows = scores(page)
        assert [row[1] for row in rows[:-1]] == list(range(1, len(rows))), "each second once"
        assert rows[-1][1] == pytest.approx(heard_seconds(page), abs=0.1)
        assert num_scored(server) == len(rows)
        assert page.text("dropped") == "0.0 s"


def heard_seconds(page: LivePage) -> float:
    minutes, seconds = page.text("heard").split(":")
    return 60 * int(minutes) + float(seconds)


def test_a_stream_that_is_stopped_while_the_network_is_down_is_scored_to_its_end_when_it_is_back(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    with wired_page(browser, tmp_path) as (page, wire, _):
        listen_and_cut(page, wire)
        page.find("stop").click()
        page.wait_for(lambda: page.text("status").startswith("Stopped. What was heard is sent when"))
        wire.mend()
        assert page.wait_for_phase("ended") == "Done."
        assert page.scored_seconds == pytest.approx(heard_seconds(page), abs=0.1)
        assert page.text("dropped") == "0.0 s"


def test_who_stops_twice_while_the_network_is_down_is_told_what_is_lost(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with wired_page(browser, tmp_path) as (page, wire, _):
        listen_and_cut(page, wire)
        page.find("stop").click()
        page.find("stop").click()
        assert page.wait_for_phase("ended") == "Stopped."
        assert page.text("gaps").startswith("Lost: 0:0")
        assert float(page.text("dropped").split()[0]) > 0


def test_a_stream_whose_place_is_taken_while_the_network_is_down_goes_on_when_there_is_one(
    browser: webdriver.Chrome, levels: Path, unbroken: list[Row], tmp_path: Path
) -> None:
    with wired_page(browser, tmp_path, SONOTAG_MAX_STREAMS="1") as (page, wire, server):
        play(page, levels, 0.5)
        page.wait_for(lambda: page.scored_seconds >= 1)
        wire.cut(is_up=False)
        page.wait_for(lambda: httpx.get(server.url + "/v1/capacity").json()["streams_open"] == 0)
        with connect(stream_url(server.url)):
            wire.mend()
            page.wait_for(lambda: page.text("status").startswith("The server is full: 1 of 1 streams are open."))
        page.wait_for_phase("live")
        assert page.text("note").endswith("the stream goes on. No sound is lost.")
        assert page.wait_for_phase("ended") == "Done."
        assert scores(page) == unbroken


LISTEN = """
    const { LiveStream } = await import("./web/stream.js");
    const told = { tags: [], gaps: [], notes: [], phase: "" };
    let onPiece;
    const source = { sampleRate: 16000, canWait: false, start: (take) => { onPiece = take; }, stop: () => {} };
    const listener = {
      onState: (phase) => { told.phase = phase; },
      onReady: (message) => { told.token = message.resume_token; },
      onTags: ({ start, end }, base) => told.tags.push([base + start, base + end]),
      onPiece: () => {},
      onLost: (seconds, why) => told.notes.push(`lost ${seconds}: ${why}`),
      onGap: (from, to) => told.gaps.push([from, to]),
      onNote: (text) => told.notes.push(text),
      onKey: () => {},
    };
    window.told = told;
    window.hear = (seconds) => {
      for (let piece = 0; piece < 10 * seconds; piece++) onPiece(new Float32Array(1600).fill(1000 / 32768));
    };
    window.stream = new LiveStream(source, { window: 1, hop: 0.5, top_k: 4, threshold: 0 }, listener, 3);
    window.stream.open();
"""
"""A stream whose page keeps three seconds of sound, and which hears some when it is told to."""


@pytest.mark.slow
def test_a_stream_whose_worker_is_only_slow_to_answer_goes_on_when_it_answers(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    several = {"SONOTAG_WORKERS": "2", "SONOTAG_WATCHDOG_SECONDS": "600"}
    with wired_page(browser, tmp_path, "tests.support.fake_service", **several) as (page, wire, server):
        page.run(LISTEN)
        page.wait_for(lambda: page.run("return told.phase") == "live")
        page.run("hear(2)")
        page.wait_for(lambda: page.run("return told.tags.length") == 4)
        holder = server.children()[int(page.run("return told.token").partition(".")[0]) - 1]
        os.kill(holder, signal.SIGSTOP)
        try:
            wire.cut()
            refused = 'sonotag_streams_refused_total{reason="unavailable"} 1.0'
            page.wait_for(lambda: refused in httpx.get(server.url + "/metrics").text)
        finally:
            os.kill(holder, signal.SIGCONT)
        page.wait_for(lambda: page.run("return told.phase") == "live")
        page.run("hear(1)")
        page.wait_for(lambda: page.run("return told.tags.at(-1)[1]") == 3)
        told = page.run("return told")
        page.run("stream.stop()")
    assert told["tags"] == [[0, 0.5], [0, 1], [0.5, 1.5], [1, 2], [1.5, 2.5], [2, 3]]
    assert told["gaps"] == []
    assert told["notes"][-1].endswith("the stream goes on. No sound is lost.")


@pytest.mark.parametrize(("keep_seconds", "how"), [("30", "the stream goes on."), ("0", "a new stream goes on, for")])
def test_sound_that_nobody_has_any_more_is_a_gap_in_the_timeline_and_is_told(
    browser: webdriver.Chrome, tmp_path: Path, keep_seconds: str, how: str
) -> None:
    with wired_page(browser, tmp_path, SONOTAG_RESUME_SECONDS=keep_seconds) as (page, wire, _):
        page.run(LISTEN)
        page.wait_for(lambda: page.run("return told.phase") == "live")
        page.run("hear(2)")
        page.wait_for(lambda: page.run("return told.tags.length") == 4)
        wire.cut(is_up=False)
        page.wait_for(lambda: page.run("return told.phase") == "waiting")
        page.run("hear(8)")
        wire.mend()
        page.wait_for(lambda: page.run("return told.phase") == "live")
        page.run("hear(1)")  # now the page has more than it keeps, and has not sent all of it
        page.wait_for(lambda: page.run("return told.tags.at(-1)[1]") == 11)
        page.run("stream.stop()")
        page.wait_for(lambda: page.run("return told.phase") == "ended")
        told = page.run("return told")
    assert told["gaps"] == [[2, 7]]
    before = [[0, 0.5], [0, 1], [0.5, 1.5], [1, 2]]
    after = [[7, 7.5], [7, 8], *([end - 1, end] for end in (8.5, 9, 9.5, 10, 10.5, 11))]
    assert told["tags"] == [*before, *after], "windows end before the gap and begin behind it"
    [note] = told["notes"]
    assert how in note
    assert note.endswith("The sound from 0:02.0 to 0:07.0 is lost.")
