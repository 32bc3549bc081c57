"""The live protocol on a real socket, with a model that the test holds in its hand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.app_server import serving
from tests.support.process import running
from tests.support.runners import FakeRunner, ForgetfulRunner, level
from tests.support.websocket import Stream, cut, stream_pieces, stream_url

RAW = {"encoding": "s16le", "sample_rate": 16000}
SECOND = level(1, 16_000).tobytes()


async def until_metric(url, line):
    """Scrape until a line is there: the end of a stream is counted a moment after the client has seen it."""
    async with httpx.AsyncClient() as client, asyncio.timeout(30):
        while line not in (await client.get(f"{url}/metrics")).text:
            pass


@contextlib.contextmanager
def capture_errors():
    """Collect what streams log as errors."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("service.streaming")
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


async def test_frames_of_a_few_samples_are_scored_like_long_ones(server):
    query = {**RAW, "hop": 1, "on_lag": "wait"}
    sound = b"".join(level(i, 16_000).tobytes() for i in (1, 3, 3, 1, 1, 3))
    long = await stream_pieces(server.url, query, [sound])
    short = await stream_pieces(server.url, query, cut(sound, 32))
    assert short.tags == long.tags
    assert (short.code, short.messages[-1]) == (1000, long.messages[-1])


async def test_sound_in_tags_and_events_out(server):
    levels = [1, 3, 3, 1, 1]
    told = await stream_pieces(server.url, {**RAW, "hop": 0.5}, [level(i, 16_000).tobytes() for i in levels])
    assert told.code == 1000
    assert told.messages[0]["type"] == "ready"
    assert told.messages[0]["configuration"]["hop"] == 0.5
    assert [m["end"] for m in told.tags] == [k / 2 for k in range(1, 11)]
    assert ("Dog", 1.0, 3.5) in told.events or ("Dog", 1.0, 3.0) in told.events
    assert told.messages[-1]["type"] == "summary"
    assert [m["seq"] for m in told.messages[1:]] == list(range(1, len(told.messages)))


@pytest.mark.parametrize("size", [7, 777, 100_000])
async def test_the_size_of_the_frames_changes_nothing(server, size):
    data = np.concatenate([level(i, 2000) for i in (0, 1, 2, 3, 1, 0, 2)]).tobytes()
    query = {**RAW, "hop": 0.1, "window": 0.4, "on_lag": "wait"}
    told = await stream_pieces(server.url, query, cut(data, size))
    whole = await stream_pieces(server.url, query, [data])
    assert [(m["start"], m["end"], m["tags"]) for m in told.tags] == [(m["start"], m["end"], m["tags"]) for m in whole.tags]
    assert told.events == whole.events


@pytest.mark.parametrize("encoding", ["s16le", "s32le", "f32le", "mulaw", "alaw"])
async def test_every_raw_encoding_is_heard(server, encoding):
    samples = level(2, 32_000)
    match encoding:
        case "s16le":
            data = samples.tobytes()
        case "s32le":
            data = (samples.astype("<i4") << 16).tobytes()
        case "f32le":
            data = (samples / np.float32(32768)).astype("<f4").tobytes()
        case _:
            data = bytes([{"mulaw": 0xC0, "alaw": 0xEA}[encoding]]) * 32_000  # about 2000 of 32768 in both
    told = await stream_pieces(server.url, {**RAW, "encoding": encoding, "top_k": 1}, [data])
    assert told.code == 1000
    assert {m["tags"][0]["label"] for m in told.tags} == {"Music"}


async def test_start_after_an_incomplete_query_then_update_flush_and_keep_alive(server):
    async with Stream(server.url, {"hop": 1.0}) as listener:
        await listener.send({"type": "start", **RAW, "top_k": 1})
        ready = await listener.until("ready")
        assert ready["configuration"]["top_k"] == 1
        await listener.send(SECOND)
        await listener.until("tags")
        await listener.send({"type": "keep_alive"})
        await listener.send({"type": "update", "labels": ["Dog"], "threshold": 0})
        configuration = await listener.until("configuration")
        assert configuration["from"] == 1.0
        await listener.send(SECOND[:16_000])
        await listener.send({"type": "flush"})
        tags = await listener.until("tags", 2)
        assert (tags["end"], [t["label"] for t in tags["tags"]]) == (1.5, ["Dog"])
        await listener.send({"type": "stop"})
        assert (await listener.closed()).code == 1000


@pytest.mark.parametrize(
    ("query", "frames", "close", "code"),
    [
        ({**RAW, "hop": 9}, [], 4400, "invalid_parameter"),
        ({**RAW, "colour": "red"}, [], 4400, "invalid_parameter"),
        ({**RAW, "model": "other"}, [], 4400, "not_found"),
        ({}, [SECOND], 4400, "protocol"),
        (RAW, ["no json"], 1007, "bad_message"),
        (RAW, [SECOND, b"x", {"type": "stop"}], 1007, "cut_sample"),
        (RAW, [bytes(1_100_000)], 4413, "body_too_large"),
        ({"encoding": "auto"}, [b"this is no sound at all, just words. " * 400], 4415, "unsupported_audio"),
        ({**RAW, "encoding": "f32le"}, [np.full(100, np.nan, "<f4").tobytes()], 4415, "undecodable_audio"),
    ],
)
async def test_what_ends_a_stream_is_said_in_an_error_frame_before_the_close(server, query, frames, close, code):
    async with Stream(server.url, query) as listener:
        try:
            for frame in frames:
                await (listener.socket.send(frame) if isinstance(frame, str) else listener.send(frame))
        except ConnectionClosed:
            pass
        told = await listener.closed()
    assert told.code == close
    assert (told.messages[-1]["type"], told.messages[-1]["code"]) == ("error", code)
    assert told.messages[-1]["fatal"] is True
    assert len(told.reason.encode()) <= 123


async def test_what_was_whole_is_scored_before_a_cut_sample_is_told(server):
    told = await stream_pieces(server.url, RAW, [SECOND + SECOND[:1001]])
    assert told.code == 1007
    assert [m["end"] for m in told.tags] == [1.0, 1.03125]


async def test_a_frame_over_the_hard_cap_ends_with_1009(server):
    async with Stream(server.url, RAW) as listener:
        await listener.until("ready")
        with contextlib.suppress(ConnectionClosed):
            await listener.send(bytes(32 * 1024 * 1024))
        assert (await listener.closed()).code == 1009


async def test_an_idle_stream_ends_with_4408():
    with serving(idle_seconds=0.2) as server:
        async with Stream(server.url, RAW) as listener:
            told = await listener.closed()
    assert told.code == 4408
    assert "SONOTAG_IDLE_SECONDS" in told.messages[-1]["message"]


async def test_a_full_server_refuses_the_upgrade_with_503():
    with serving(max_streams=1) as server:
        async with Stream(server.url, RAW) as listener:
            await listener.until("ready")
            with pytest.raises(InvalidStatus) as refused:
                await connect(stream_url(server.url, RAW))
            assert refused.value.response.status_code == 503
            assert int(refused.value.response.headers["Retry-After"]) >= 1
            assert "SONOTAG_MAX_STREAMS" in refused.value.response.body.decode()
        await until_metric(server.url, "sonotag_streams_open 0.0")
        told = await stream_pieces(server.url, RAW, [SECOND])
        assert told.code == 1000
        await until_metric(server.url, 'sonotag_streams_refused_total{reason="full"} 1.0')


async def test_what_clients_do_wrong_is_one_info_line_each_and_no_error(tmp_path):
    with running("tests.support.fake_server", environ={"SONOTAG_MAX_STREAMS": "1"}, cwd=tmp_path) as process:
        process.wait_ready()
        async with Stream(process.url, RAW) as listener:
            await listener.until("ready")
            with pytest.raises(InvalidStatus):
                await connect(stream_url(process.url, RAW))
            await listener.socket.send(b"\xff\xfe", text=True)
            assert (await listener.closed()).code == 1007
        await until_metric(process.url, "sonotag_streams_open 0.0")
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)
    lines = process.stderr.splitlines()
    assert sum("service.audit stream refused key=- outcome=queue_full" in line for line in lines) == 1
    assert sum("stream closed" in line for line in lines) == 1
    assert not [line for line in lines if "ERROR" in line or "WARNING" in line]


async def test_a_client_that_leaves_leaves_nothing_behind():
    runner = FakeRunner()
    with serving(runner) as server:
        runner.hold()
        async with Stream(server.url, RAW) as listener:
            for _ in range(3):
                await listener.send(SECOND)
            await asyncio.to_thread(runner.wait_for_runs, 1)
        await until_metric(server.url, 'sonotag_streams_total{outcome="disconnected"} 1.0')
        runner.release()
        told = await stream_pieces(server.url, RAW, [SECOND])
        assert told.code == 1000
        await until_metric(server.url, 'sonotag_audio_dropped_seconds_total{reason="disconnect"} 3.0')


# Lag


async def test_a_model_that_is_too_slow_drops_windows_in_the_open_and_the_lag_stays_bounded():
    runner = FakeRunner(delay_seconds=0.15, batch_sizes=(1,))
    with serving(runner, max_lag_seconds=0.3) as server:
        async with Stream(server.url, {**RAW, "hop": 0.1, "window": 1.0}) as listener:
            await listener.until("ready")
            for k in range(30):  # real time: 100 ms of sound every 100 ms
                await listener.send(level(1, 1600).tobytes())
                if k < 29:
                    await asyncio.sleep(0.1)
            await listener.send({"type": "stop"})
            told = await listener.closed()
    assert told.code == 1000
    lag = [m for m in told.of_type("warning") if m["code"] == "lag"]
    dropped = sum(m["dropped_to"] - m["dropped_from"] for m in lag)
    assert lag
    assert told.tags
    assert max(m["lag_ms"] for m in told.tags) <= 300
    assert told.messages[-1]["dropped_seconds"] == pytest.approx(dropped)
    times = [m["dropped_from"] if m["type"] == "warning" else m["end"] for m in told.of_type("warning", "tags")]
    assert times == sorted(times)
    scored = {round(m["end"], 3) for m in told.tags}
    told_dropped = {
        round(k / 10, 3) for m in lag for k in range(round(m["dropped_from"] * 10) + 1, round(m["dropped_to"] * 10) + 1)
    }
    assert scored | told_dropped == {round(k / 10, 3) for k in range(1, 31)}
    assert not scored & told_dropped


async def test_with_on_lag_error_a_model_that_is_too_slow_ends_the_stream_with_4503():
    runner = FakeRunner()
    with serving(runner, max_lag_seconds=0.2) as server:
        runner.hold()
        async with Stream(server.url, {**RAW, "on_lag": "error", "hop": 0.1}) as listener:
            await listener.send(level(1, 1600).tobytes())
            told = await listener.closed()
    assert told.code == 4503
    assert told.messages[-1]["code"] == "overloaded"
    assert told.messages[-1]["retryable"] is True


async def test_with_on_lag_wait_the_sender_is_held_and_nothing_is_dropped():
    runner = FakeRunner()
    with serving(runner, max_lag_seconds=0.05, max_ahead_seconds=2) as server:
        runner.hold()
        async with Stream(server.url, {**RAW, "on_lag": "wait"}) as listener:
            sent = 0

            async def send_all():
                nonlocal sent
                for _ in range(600):  # 19 MB, more than sockets hold
                    await listener.send(SECOND)
                    sent += 1
                await listener.send({"type": "stop"})

            sending = asyncio.create_task(send_all())
            await asyncio.to_thread(runner.wait_for_runs, 1)
            assert sent < 600
            runner.release()
            await sending
            told = await listener.closed()
    assert told.code == 1000
    assert told.messages[-1]["windows"] == 600
    assert told.messages[-1]["dropped_seconds"] == 0


async def test_a_file_faster_than_real_time_is_scored_whole_although_the_lag_limit_is_short():
    runner = FakeRunner(delay_seconds=0.01)
    with serving(runner, max_lag_seconds=0.05, max_ahead_seconds=5) as server:
        told = await stream_pieces(server.url, {**RAW, "hop": 0.5}, [SECOND] * 40)
    assert told.code == 1000
    assert told.messages[-1]["windows"] == 80
    assert told.of_type("warning") == []


async def test_one_slow_stream_does_not_stall_another(server):
    async with Stream(server.url, {**RAW, "on_lag": "wait"}) as silent:
        await silent.until("ready")
        told = await stream_pieces(server.url, RAW, [SECOND] * 5)
        assert told.messages[-1]["windows"] == 5


async def test_many_streams_at_once_share_the_model(server):
    async def one(label_id):
        return await stream_pieces(server.url, {**RAW, "top_k": 1}, [level(label_id, 16_000).tobytes()] * 4)

    told = await asyncio.gather(*[one(index % 3 + 1) for index in range(30)])
    for index, stream in enumerate(told):
        labels = {m["tags"][0]["id"] for m in stream.tags}
        assert labels == {index % 3 + 1}
        assert len(stream.tags) == 4


async def test_a_failed_batch_is_told_and_the_stream_goes_on():
    runner = FakeRunner(failures=[RuntimeError("poison")])
    with serving(runner) as server:
        async with Stream(server.url, RAW) as listener:
            await listener.send(SECOND)
            error = await listener.until("error")
            await listener.send(SECOND)
            await listener.until("tags")
            await listener.send({"type": "stop"})
            told = await listener.closed()
    assert (error["code"], error["fatal"]) == ("inference_failed", False)
    assert "poison" not in error["message"]
    assert told.code == 1000


async def test_what_breaks_in_one_stream_ends_it_with_1011_and_no_other():
    with serving(ForgetfulRunner()) as server, capture_errors() as errors:
        broken = await stream_pieces(server.url, {**RAW, "labels": ["Dog"]}, [SECOND])
        whole = await stream_pieces(server.url, RAW, [SECOND])
    assert broken.code == 1011
    assert (broken.messages[-1]["code"], broken.messages[-1]["fatal"]) == ("internal", True)
    assert "session_id" in broken.messages[-1]["message"]
    assert whole.code == 1000
    assert [record.getMessage() for record in errors] == ["the stream broke"]


# Drain


async def test_a_drain_says_going_away_answers_everything_and_refuses_new_streams():
    runner = FakeRunner()
    with serving(runner) as server:
        runner.hold()
        async with Stream(server.url, RAW) as listener, Stream(server.url, RAW) as quiet:
            await quiet.until("ready")
            for _ in range(3):
                await listener.send(SECOND)
            await listener.send(SECOND[:8000])
            await asyncio.to_thread(runner.wait_for_runs, 1)
            server.begin_drain()
            await listener.until("going_away")
            with pytest.raises(InvalidStatus) as refused:
                await connect(stream_url(server.url, RAW))
            assert refused.value.response.status_code == 503
            async with httpx.AsyncClient(base_url=server.url) as client:
                assert (await client.get("/health/ready")).status_code == 503
                assert (await client.get("/health/live")).status_code == 200
            runner.release()
            told, empty = await listener.closed(), await quiet.closed()
        await asyncio.to_thread(server.wait_ended)
    assert told.code == empty.code == 1001
    assert [m["end"] for m in told.tags][:3] == [1.0, 2.0, 3.0]
    assert told.events == [("Speech", 0.0, told.tags[-1]["end"])]
    assert "error" not in {m["type"] for m in told.messages}


async def test_metrics_agree_with_what_streams_sent():
    with serving() as server:
        for _ in range(3):
            await stream_pieces(server.url, RAW, [SECOND] * 4)
        await stream_pieces(server.url, {"encoding": "none"}, [])
        for line in (
            'sonotag_streams_total{outcome="done"} 3.0',
            'sonotag_streams_total{outcome="bad_configuration"} 1.0',
            'sonotag_audio_received_seconds_total{source="stream"} 12.0',
            'sonotag_windows_scored_total{model="fake"} 12.0',
            "sonotag_window_lag_seconds_count 12.0",
            "sonotag_streams_open 0.0",
        ):
            await until_metric(server.url, line)
