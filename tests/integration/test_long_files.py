"""An hour of sound over REST: in memory that does not grow with it, and with progress."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.process import ServiceProcess, running
from tests.support.rest import SPEECH, heard, lines, measure, wav

HOUR = 3600
MAX_GROWTH = 300 * 1024**2
CHUNK_BYTES = 256 * 1024


@pytest.fixture(scope="module")
def hour_of_flac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hour") / "hour.flac"
    source = f"sine=frequency=440:sample_rate=44100:duration={HOUR}"
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", source, "-compression_level", "0", str(path)]
    subprocess.run(command, check=True, timeout=120)
    return path


@pytest.fixture(scope="module")
def hour_of_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hour") / "hour.wav"
    source = f"sine=frequency=440:sample_rate=16000:duration={HOUR}"
    subprocess.run(
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", source, str(path)], check=True, timeout=120
    )
    return path


@pytest.fixture
def narrow_server(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service with a fast model and a queue that a file of an hour fills a thousand times."""
    with running("tests.support.fake_server", environ={"SONOTAG_MAX_QUEUE_WINDOWS": "3"}, cwd=tmp_path) as server:
        url = server.wait_ready()
        # What every first request costs is no growth.
        assert httpx.post(f"{url}/v1/classify", content=wav(heard((SPEECH, 20.0)))).status_code == 200
        yield server


def memory(server: ServiceProcess, name: str) -> int:
    """Return a line of the process's status, in bytes: VmRSS is what it holds now, VmHWM the most it ever held."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            yield data


def test_an_hour_is_answered_line_by_line_in_little_memory(narrow_server: ServiceProcess, hour_of_flac: Path) -> None:
    before, scored_before = memory(narrow_server, "VmRSS"), measure(narrow_server.url)
    headers = {"Accept": "application/x-ndjson"}
    query = {"events": "true", "embedding": "true", "top_k": 1, "hop": 1}
    url = f"{narrow_server.url}/v1/classify"
    num_windows, progress, summary = 0, 0.0, {}
    with httpx.stream("POST", url, content=chunks(hour_of_flac), params=query, headers=headers, timeout=120) as response:
        assert response.status_code == 200
        for line in lines(response):
            if line["type"] == "summary":
                summary = line
                continue
            assert line["type"] == "window"
            assert line["end"] == num_windows + 1
            assert progress <= line["progress"] <= 1
            progress = line["progress"]
            num_windows += 1
            if num_windows == HOUR // 2:
                assert 0.4 < progress < 0.6
    assert num_windows == HOUR
    assert progress == 1
    assert summary["duration"] == pytest.approx(HOUR, abs=0.01)
    assert memory(narrow_server, "VmHWM") - before < MAX_GROWTH
    counters = measure(narrow_server.url)
    for name, expected in (("windows_scored_total", "model"), ("audio_received_seconds_total", "source")):
        key = next(key for key in counters if key.startswith(f"sonotag_{name}{{{expected}"))
        assert counters[key] - scored_before[key] == pytest.approx(HOUR, abs=0.01)


@pytest.mark.slow
def test_an_hour_is_answered_whole_in_little_memory(narrow_server: ServiceProcess, hour_of_wav: Path) -> None:
    before = memory(narrow_server, "VmRSS")
    response = httpx.post(f"{narrow_server.url}/v1/classify", content=chunks(hour_of_wav), timeout=120)
    assert response.json()["duration"] == HOUR
    assert memory(narrow_server, "VmHWM") - before < MAX_GROWTH


def test_short_clips_are_answered_while_an_hour_is_under_way(narrow_server: ServiceProcess, hour_of_wav: Path) -> None:
    url = f"{narrow_server.url}/v1/classify"
    clip = wav(heard((SPEECH, 1.0)))
    headers = {"Accept": "application/x-ndjson"}
    with httpx.stream("POST", url, content=chunks(hour_of_wav), headers=headers, timeout=120) as response:
        received = lines(response)
        for _ in range(20):
            assert next(received)["type"] == "window"
            assert httpx.post(url, content=clip).json()["tags"][0]["label"] == "Speech"
        # A clip's sound is counted when it is done: the hour is not.
        assert measure(narrow_server.url)['sonotag_audio_received_seconds_total{source="clip"}'] == 20 + 20
