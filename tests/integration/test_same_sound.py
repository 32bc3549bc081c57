"""The same sound gives the same numbers whichever way it comes in: on the embedded model, in a real process."""

from __future__ import annotations

import asyncio
import csv
import json
import signal

import httpx
import numpy as np
import pytest
import soundfile

from tests.support.process import running
from tests.support.runners import level
from tests.support.shared import shared_path
from tests.support.sounds import encode, speech
from tests.support.websocket import Stream, cut, stream_pieces

TOLERANCE = 1e-4


@pytest.fixture
def server(embedded_server):
    return embedded_server


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Eight seconds: noise, a sentence, a tone, silence, at 44.1 kHz in stereo."""
    folder = tmp_path_factory.mktemp("sounds")
    words, rate = soundfile.read(speech(folder), dtype="float32")
    words = np.repeat(words, 3)[: 44_100 * 6] if rate == 16_000 else words
    time = np.arange(44_100 * 2) / 44_100
    tone = 0.4 * np.sin(2 * np.pi * 880 * time)
    hiss = 0.1 * np.random.default_rng(1).standard_normal(44_100)
    left = np.concatenate([hiss, words, tone, np.zeros(44_100)]).astype(np.float32)
    return folder, np.stack([left, 0.5 * left], axis=1)


def classify(server, path, **params):
    answer = httpx.post(f"{server.url}/v1/classify", params=params, content=path.read_bytes(), timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def assert_same(windows, events, answer):
    """A stream's windows and events are those of the answer for the file."""
    assert [(w["start"], w["end"]) for w in windows] == [(w["start"], w["end"]) for w in answer["windows"]]
    for window, expected in zip(windows, answer["windows"], strict=True):
        scores = {tag["id"]: tag["score"] for tag in window["tags"]}
        for tag in expected["tags"]:
            assert scores[tag["id"]] == pytest.approx(tag["score"], abs=TOLERANCE)
    assert sorted(events) == sorted((e["label"], e["onset"], e["offset"]) for e in answer["events"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("scene.wav", ["-c:a", "pcm_s16le"]),
        ("scene.flac", []),
        ("scene.aiff", []),
        ("scene.ogg", ["-c:a", "libvorbis"]),
        ("scene.opus", ["-c:a", "libopus"]),
        ("scene.mp3", []),
        ("live.webm", ["-c:a", "libopus", "-f", "webm", "-live", "1", "-cluster_time_limit", "250"]),
        ("scene.m4a", ["-c:a", "aac", "-movflags", "faststart"]),
        ("fragmented.mp4", ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"]),
        ("scene.aac", ["-c:a", "aac"]),
    ],
)
async def test_a_file_and_its_stream_give_the_same_windows_scores_and_events(server, scene, name, arguments):
    folder, waveform = scene
    path = encode(folder, waveform, 44_100, name, *arguments)
    answer = classify(server, path, hop=0.5, timeline=True, events=True, top_k=600)
    query = {"encoding": "auto", "hop": 0.5, "top_k": 600, "threshold": 0, "on_lag": "wait"}
    told = await stream_pieces(server.url, query, cut(path.read_bytes(), 3001))
    assert told.code == 1000
    assert_same(told.tags, told.events, answer)
    assert told.messages[-1]["duration"] == answer["duration"]
    assert told.messages[-1]["events"] == len(answer["events"])


@pytest.mark.parametrize("window", [0.5, 1.0, 1.5, 2.5])
async def test_short_windows_of_a_file_and_its_stream_are_the_same(server, scene, window):
    folder, waveform = scene
    path = encode(folder, waveform, 44_100, "short.flac")
    # The second sound is shorter than most of these windows: the window asked for decides, not the sound there is.
    for sound in (path, encode(folder, waveform[44_100 * 3 :][:44_100], 44_100, "second.flac")):
        answer = classify(server, sound, window=window, hop=0.5, timeline=True, events=True, top_k=600)
        query = {"encoding": "auto", "window": window, "hop": 0.5, "top_k": 600, "threshold": 0, "on_lag": "wait"}
        told = await stream_pieces(server.url, query, cut(sound.read_bytes(), 3001))
        assert_same(told.tags, told.events, answer)


async def test_raw_samples_give_what_the_file_gives(server, scene):
    folder, waveform = scene
    path = encode(folder, waveform, 44_100, "raw.wav", "-c:a", "pcm_s16le")
    samples, _ = soundfile.read(path, dtype="int16")
    answer = classify(server, path, hop=1, timeline=True, events=True, top_k=600)
    query = {"encoding": "s16le", "sample_rate": 44_100, "channels": 2, "top_k": 600, "threshold": 0, "on_lag": "wait"}
    told = await stream_pieces(server.url, query, cut(samples.tobytes(), 8191))
    assert_same(told.tags, told.events, answer)


async def test_an_mp4_with_its_index_last_works_as_a_file_and_says_why_not_as_a_stream(server, scene):
    folder, waveform = scene
    path = encode(folder, waveform, 44_100, "index_last.m4a", "-c:a", "aac")
    assert classify(server, path)["tags"]
    told = await stream_pieces(server.url, {"encoding": "auto"}, cut(path.read_bytes(), 3001))
    assert told.code == 4415
    assert told.messages[-1]["code"] == "not_streamable"


@pytest.mark.parametrize("lossless", ["flac", "wav"])
async def test_a_sentence_is_speech_from_the_first_partial_window_on(server, tmp_path, lossless):
    path = speech(tmp_path)
    assert classify(server, path)["tags"][0]["label"] == "Speech"
    told = await stream_pieces(server.url, {"encoding": "auto", "hop": 0.5}, cut(path.read_bytes(), 3200))
    assert told.code == 1000
    assert all(m["tags"][0]["label"] == "Speech" for m in told.tags)
    assert told.tags[0]["coverage"] < 0.2
    assert "Silence" not in {tag["label"] for m in told.tags for tag in m["tags"]}


@pytest.mark.shared
async def test_labelled_clips_streamed_at_real_speed_are_heard_in_time(server):
    """Three clips at once, in 100 ms pieces as a microphone sends them."""
    folder = shared_path("audio", "esc50")
    with (folder / "clips.csv").open() as file:
        clips = [row for row in csv.DictReader(file) if row["audioset_label"] in {"Dog", "Rain", "Siren"}][:3]

    async def stream(row):
        samples, rate = soundfile.read(folder / row["file"], dtype="int16")
        async with Stream(server.url, {"encoding": "s16le", "sample_rate": rate, "top_k": 20}) as listener:
            started = asyncio.get_running_loop().time()
            for index, piece in enumerate(cut(samples.tobytes(), rate // 5)):
                await asyncio.sleep(started + index / 10 - asyncio.get_running_loop().time())
                await listener.send(piece)
            await listener.send({"type": "stop"})
            return await listener.closed()

    for row, told in zip(clips, await asyncio.gather(*map(stream, clips)), strict=True):
        assert told.code == 1000
        assert [m["end"] for m in told.tags] == [1.0, 2.0, 3.0, 4.0, 5.0]
        answer = classify(server, folder / row["file"], hop=1, timeline=True, events=True, top_k=20, threshold=0.1)
        assert_same(told.tags, told.events, answer)


async def test_sigterm_loses_no_result_and_ends_with_0(tmp_path):
    with running("tests.support.fake_server", environ={"FAKE_SECONDS": "0.05"}, cwd=tmp_path) as process:
        process.wait_ready()
        query = {"encoding": "s16le", "sample_rate": 16000, "hop": 0.1}
        async with Stream(process.url, query) as listener:
            await listener.send(level(1, 48_000).tobytes())
            await listener.until("tags")
            process.send_signal(signal.SIGTERM)
            told = await listener.closed()
        assert await asyncio.to_thread(process.wait) == 0
    assert told.code == 1001
    assert [m["end"] for m in told.tags] == [pytest.approx(k / 10) for k in range(1, 31)]
    assert "going_away" in {m["type"] for m in told.messages}


def test_the_log_holds_one_line_for_a_request_with_its_id(tmp_path):
    with running("tests.support.fake_server", environ={"SONOTAG_LOG_FORMAT": "json"}, cwd=tmp_path) as process:
        process.wait_ready()
        path = speech(tmp_path)
        httpx.post(f"{process.url}/v1/classify", content=path.read_bytes(), headers={"X-Request-Id": "abc-1"})
        process.send_signal(signal.SIGTERM)
        process.wait()
    lines = [json.loads(line) for line in process.stderr.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("request_id") == "abc-1"]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/classify", 200)
