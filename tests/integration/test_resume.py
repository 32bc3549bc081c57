"""A stream goes on over another connection, with real sockets and real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.access.keys import Limits
from tests.support.app_server import AppServer, serving
from tests.support.keys import add_key, bearer
from tests.support.process import ServiceProcess, running
from tests.support.runners import FakeRunner, level
from tests.support.websocket import Listener, Stream, stream_pieces, stream_url

RAW = {"encoding": "s16le", "sample_rate": 16_000, "hop": 0.5, "threshold": 0.5}
SECOND = level(1, 16_000).tobytes()
TENTH = level(1, 1_600).tobytes()


@asynccontextmanager
async def going_on(url: str, token: str, last_seq: int, **more: object) -> AsyncIterator[tuple[Listener, dict[str, Any]]]:
    async with Stream(url, {**RAW, "resume_token": token, "last_seq": last_seq, **more}) as listener:
        yield listener, await listener.until("ready")


def last_seq(listener: Listener) -> int:
    return max((message.get("seq") or 0 for message in listener.told.messages), default=0)


async def speak_a_second(listener: Listener) -> dict[str, Any]:
    """Say a second of sound, wait until it is answered, and return what the stream began with."""
    ready = await listener.until("ready")
    await listener.send(SECOND)
    await listener.until("tags", 2)
    return ready


def break_off(listener: Listener) -> None:
    """End the connection as a network does that is gone: without a word."""
    listener.socket.transport.abort()


def said(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in message.items() if name != "lag_ms"}
        for message in messages
        if message["type"] in ("tags", "event", "summary")
    ]


async def until(url: str, line: str) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(60):
        while line not in (await client.get(url + "/metrics")).text:
            pass


async def test_a_stream_goes_on_where_it_broke_and_nothing_is_lost_or_said_twice() -> None:
    with serving() as server:
        whole = await stream_pieces(server.url, RAW, [TENTH] * 45)
        async with Stream(server.url, RAW) as first:
            ready = await first.until("ready")
            for _ in range(23):
                await first.send(TENTH)
            await first.until("tags", 4)
            break_off(first)
            await first.closed()
        received = [message for message in first.told.messages if (message.get("seq") or 0) <= 2]
        await until(server.url, 'sonotag_streams_total{outcome="disconnected"} 1.0')
        async with going_on(server.url, ready["resume_token"], 2) as (second, again):
            assert again["missing"] == []
            assert again["resume_token"] != ready["resume_token"]
            sent_before = round(again["resumed_at"] * 10)
            assert sent_before == 23
            for _ in range(45 - sent_before):
                await second.send(TENTH)
            await second.send({"type": "stop"})
            told = await second.closed()
        assert said(received + told.messages) == said(whole.messages)
        assert told.code == 1000


async def test_a_client_that_is_back_before_its_old_connection_is_known_to_be_broken_takes_the_stream() -> None:
    with serving() as server:
        async with Stream(server.url, RAW) as first:
            ready = await speak_a_second(first)
            async with going_on(server.url, ready["resume_token"], last_seq(first), resume_from=3) as (second, again):
                assert again["resumed_at"] == 3
                assert again["missing"] == [[1.0, 3.0]]
                await first.closed()
                await second.send(SECOND)
                tags = await second.until("tags")
                assert (tags["start"], tags["end"], tags["coverage"]) == (3.0, 3.5, 0.5)
                await second.send({"type": "stop"})
                told = await second.closed()
        assert told.code == 1000
        assert told.messages[-1]["duration"] == 4.0


async def test_a_client_whose_new_connection_breaks_before_it_has_read_ready_comes_back_as_it_came() -> None:
    with serving() as server:
        async with Stream(server.url, RAW) as first:
            ready = await speak_a_second(first)
            break_off(first)
            await first.closed()
        token, seq = ready["resume_token"], last_seq(first)
        for _ in range(2):
            async with going_on(server.url, token, seq, resume_from=3) as (unheard, again):
                assert (again["resumed_at"], again["missing"]) == (3.0, [[1.0, 3.0]])
                break_off(unheard)
                await unheard.closed()
        async with going_on(server.url, token, seq, resume_from=4) as (second, again):
            assert (again["resumed_at"], again["missing"]) == (4.0, [[1.0, 4.0]])
            await second.send(SECOND)
            assert (await second.until("tags"))["start"] == 4.0
            break_off(second)
            await second.closed()
        async with going_on(server.url, token, seq) as (other, another):
            assert "resumed_at" not in another, "it has used the token that came with ready"
            assert (await other.until("error"))["code"] == "resume_unknown"
        async with going_on(server.url, again["resume_token"], last_seq(second)) as (_, third):
            assert (third["resumed_at"], third["missing"]) == (5.0, [])


async def test_a_token_is_of_use_once_and_for_so_long() -> None:
    with serving(resume_seconds=0.05) as server:
        async with Stream(server.url, RAW) as first:
            ready = await first.until("ready")
            await first.send(TENTH)
            break_off(first)
            await first.closed()
        await until(server.url, 'sonotag_audio_dropped_seconds_total{reason="disconnect"} 0.1')
        for token in (ready["resume_token"], "0.made-up", "17.x", "x", "é." + "x" * 500):
            async with going_on(server.url, token, 0) as (second, again):
                assert "resumed_at" not in again
                assert (await second.until("error"))["code"] == "resume_unknown"
                await second.send(SECOND)
                assert (await second.until("tags"))["start"] == 0.0


async def test_a_stream_goes_on_with_the_key_that_opened_it_and_with_no_other(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    mine, theirs = (bearer(add_key(path, name)) for name in ("mine", "theirs"))
    with serving(api_keys_file=str(path)) as server:
        async with Stream(server.url, RAW, additional_headers=mine) as first:
            ready = await speak_a_second(first)
            query = {**RAW, "resume_token": ready["resume_token"], "last_seq": last_seq(first)}
            async with Stream(server.url, query, additional_headers=theirs) as stolen:
                assert "resumed_at" not in await stolen.until("ready")
                assert (await stolen.until("error"))["code"] == "resume_unknown"
            await first.send(SECOND)
            await first.until("tags", 4)  # it has not noticed anything
            break_off(first)
            await first.closed()
        query["last_seq"] = last_seq(first)
        async with Stream(server.url, query, additional_headers=theirs) as stolen:
            assert (await stolen.until("error"))["code"] == "resume_unknown"
        token = await asyncio.to_thread(httpx.post, server.url + "/v1/tokens", json={"scopes": ["stream"]}, headers=mine)
        async with Stream(server.url, query, additional_headers=bearer(token.json()["token"])) as second:
            assert (await second.until("ready"))["resumed_at"] == 2.0, "a token of the key is the key"


async def test_no_more_streams_are_kept_than_may_be_open_and_the_oldest_go_first() -> None:
    with serving(max_streams=2) as server:
        tokens = []
        for number in range(3):
            async with Stream(server.url, RAW) as listener:
                tokens.append((await listener.until("ready"))["resume_token"])
                await listener.send(TENTH)
                break_off(listener)
                await listener.closed()
            await until(server.url, f'sonotag_streams_total{{outcome="disconnected"}} {number + 1}.0')
        await until(server.url, 'sonotag_audio_dropped_seconds_total{reason="disconnect"} 0.1')
        async with going_on(server.url, tokens[0], 0) as (listener, _):
            assert (await listener.until("error"))["code"] == "resume_unknown"
        for token in tokens[1:]:
            async with going_on(server.url, token, 0) as (_, ready):
                assert ready["resumed_at"] == 0.1


async def learn_speed(server: AppServer) -> None:
    assert (await stream_pieces(server.url, RAW, [SECOND])).code == 1000
    await until(server.url, "sonotag_streams_open 0.0")


async def break_a_busy_stream(url: str) -> tuple[str, int]:
    """Break a stream that asks for ten windows a second, which its query does not tell; return its token and last `seq`."""
    async with Stream(url, {**RAW, "hop": 1}) as first:
        ready = await first.until("ready")
        await first.send({"type": "update", "hop": 0.1})
        await first.until("configuration")
        break_off(first)
        await first.closed()
    return ready["resume_token"], last_seq(first)


async def test_a_stream_that_goes_on_asks_for_as_much_as_it_did() -> None:
    with serving(FakeRunner(batch_sizes=(1,), delay_seconds=0.1), max_lag_seconds=60) as server:
        await learn_speed(server)
        token, seq = await break_a_busy_stream(server.url)
        await until(server.url, "sonotag_streams_open 0.0")
        async with going_on(server.url, token, seq, hop=1) as (_, again):
            assert again["configuration"]["hop"] == 0.1
            with pytest.raises(InvalidStatus) as refused:
                await connect(stream_url(server.url, RAW))
            assert "the open streams ask for 10.0 windows a second" in refused.value.response.body.decode()
        await until(server.url, "sonotag_streams_open 0.0")
        async with Stream(server.url, RAW) as other:  # once it has left there is room again
            await other.until("ready")


async def ask_in_vain(url: str, token: str, seq: int, *, by: str) -> None:
    """Be refused a stream that there is no room for: at the door where the query names it, else once `start` does."""
    resume = {"resume_token": token, "last_seq": seq}
    if by == "query":
        with pytest.raises(InvalidStatus) as refusal:
            await connect(stream_url(url, {**RAW, **resume}))
        assert refusal.value.response.status_code == 503
        assert refusal.value.response.headers["Retry-After"] == "5"
        return
    async with Stream(url) as refused:
        await refused.send({"type": "start", **RAW, **resume})
        told = await refused.closed()
    assert told.code == 4503
    assert [(message["code"], message["retryable"]) for message in told.messages] == [("queue_full", True)]


@pytest.mark.parametrize("by", ["query", "start"])
async def test_a_stream_that_there_is_no_room_for_stays_where_it_is_until_there_is(by: str) -> None:
    with serving(FakeRunner(batch_sizes=(1,), delay_seconds=0.1), max_lag_seconds=60) as server:
        await learn_speed(server)
        token, seq = await break_a_busy_stream(server.url)
        await until(server.url, "sonotag_streams_open 0.0")
        async with Stream(server.url, RAW) as other:
            await other.until("ready")
            await ask_in_vain(server.url, token, seq, by=by)
        await until(server.url, "sonotag_streams_open 0.0")
        async with going_on(server.url, token, seq, hop=1) as (_, again):
            assert again["resumed_at"] == 0.0


async def test_a_stream_that_is_refused_when_its_old_connection_is_left_is_kept() -> None:
    runner = FakeRunner(batch_sizes=(1,), delay_seconds=0.1)
    with serving(runner, max_lag_seconds=60) as server:
        await learn_speed(server)
        async with Stream(server.url, {**RAW, "hop": 1}) as first, Stream(server.url) as second:
            ready = await first.until("ready")
            await first.send({"type": "update", "hop": 0.5})
            await first.until("configuration")
            async with Stream(server.url, RAW) as other:
                runner.delay_seconds = 1.0  # the model can do less by the time that `start` comes
                await other.send(SECOND)
                await other.until("tags", 2)
                resume = {"resume_token": ready["resume_token"], "last_seq": last_seq(first)}
                await second.send({"type": "start", **RAW, **resume})
                assert (await second.closed()).code == 4503
                await first.closed()
        await until(server.url, "sonotag_streams_open 0.0")
        async with going_on(server.url, ready["resume_token"], last_seq(first)) as (_, again):
            assert again["resumed_at"] == 0.0


async def test_a_stream_is_counted_once_while_its_old_connection_is_not_known_to_be_broken(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    mine, theirs = (bearer(add_key(path, name, limits=Limits(max_streams=1))) for name in ("mine", "theirs"))
    settings = {"max_lag_seconds": 60, "max_streams": 2, "api_keys_file": str(path)}
    with serving(FakeRunner(batch_sizes=(1,), delay_seconds=0.1), **settings) as server:
        async with Stream(server.url, RAW, additional_headers=theirs) as other:
            await other.send(SECOND)
            await other.until("tags", 2)  # what the model can do is known
            async with Stream(server.url, RAW, additional_headers=mine) as first:
                ready = await first.until("ready")
                with pytest.raises(InvalidStatus):
                    await connect(stream_url(server.url, RAW), additional_headers=mine)
                # Both places are taken, the key has one, and for five windows a second more there would be no room.
                query = {**RAW, "hop": 0.2, "resume_token": ready["resume_token"]}
                async with Stream(server.url, query, additional_headers=mine) as second:
                    assert (await second.until("ready"))["configuration"]["hop"] == 0.5
                    await first.closed()


async def test_a_stream_that_goes_on_in_another_worker_asks_for_as_much_there(tmp_path: Path) -> None:
    environ = {"SONOTAG_WORKERS": "2", "FAKE_SECONDS": "0.2", "SONOTAG_MAX_LAG_SECONDS": "60"}
    with running("tests.support.fake_service", cwd=tmp_path, environ=environ) as service:
        url = await asyncio.to_thread(service.wait_ready)
        learnt: set[str] = set()
        while len(learnt) < 2:  # both workers know what the model can do
            async with Stream(url, RAW) as stream:
                learnt.add((await stream.until("ready"))["resume_token"].split(".")[0])
                await stream.send(SECOND)
                await stream.until("tags", 2)
        for _ in range(100):
            await until(url, "sonotag_streams_open 0.0")
            token, seq = await break_a_busy_stream(url)
            await until(url, "sonotag_streams_open 0.0")
            async with going_on(url, token, seq, hop=1) as (_, again):
                if token.split(".")[0] == again["resume_token"].split(".")[0]:
                    continue
                refusals, taken = set(), set()
                while not (refusals and taken):
                    try:
                        async with Stream(url, RAW) as other:
                            taken.add((await other.until("ready"))["resume_token"].split(".")[0])
                    except InvalidStatus as refused:
                        refusals.add(refused.response.body.decode().split(" windows")[0].rpartition(" ")[2])
                assert refusals == {"10.0"}, "where it is now"
                assert taken == {token.split(".")[0]}, "and not where it was"
                break
        else:
            raise AssertionError("it came back to the same worker each time")


async def test_the_end_of_a_stream_is_kept_for_a_client_whose_connection_broke_before_it_had_it() -> None:
    with serving() as server:
        whole = await stream_pieces(server.url, RAW, [SECOND, TENTH])
        async with Stream(server.url, RAW) as first:
            ready = await speak_a_second(first)
            first.socket.transport.pause_reading()
            await first.send(TENTH)
            await first.send({"type": "stop"})
            await until(server.url, 'sonotag_streams_total{outcome="done"} 2.0')
            break_off(first)
            await first.closed()
        assert first.told.of_type("summary") == []
        async with going_on(server.url, ready["resume_token"], last_seq(first)) as (second, again):
            assert again["resumed_at"] == 1.1
            told = await second.closed()
        assert said(first.told.messages + told.messages) == said(whole.messages)
        assert told.code == 1000


async def test_a_client_that_has_confirmed_the_end_leaves_nothing_to_go_on_with() -> None:
    with serving() as server:
        told = await stream_pieces(server.url, RAW, [SECOND])
        async with going_on(server.url, told.messages[0]["resume_token"], 1) as (second, again):
            assert "resumed_at" not in again
            assert (await second.until("error"))["code"] == "resume_unknown"


async def test_a_client_that_closes_its_stream_leaves_nothing_to_go_on_with() -> None:
    with serving() as server:
        async with Stream(server.url, RAW) as first:
            ready = await first.until("ready")
            await first.send(SECOND)
            await first.until("tags")
        await until(server.url, 'sonotag_streams_total{outcome="disconnected"} 1.0')
        async with going_on(server.url, ready["resume_token"], 0) as (second, again):
            assert "resumed_at" not in again
            assert (await second.until("error"))["code"] == "resume_unknown"


async def test_resampled_sound_is_sent_again_from_a_whole_second() -> None:
    rate, seconds = 44_100, 5
    noise = np.random.default_rng(1).normal(0, 3000, rate * seconds).astype("<i2")
    query = {**RAW, "sample_rate": rate, "threshold": 0, "top_k": 9}
    pieces = [noise[start : start + 4410].tobytes() for start in range(0, len(noise), 4410)]
    with serving() as server:
        whole = await stream_pieces(server.url, query, pieces)
        async with Stream(server.url, query) as first:
            ready = await first.until("ready")
            for piece in pieces[:27]:
                await first.send(piece)
            await first.until("tags", 5)
            break_off(first)
            await first.closed()
        await until(server.url, 'sonotag_streams_total{outcome="disconnected"} 1.0')
        query |= {"resume_token": ready["resume_token"], "last_seq": last_seq(first)}
        async with Stream(server.url, query) as second:
            assert (await second.until("ready"))["resumed_at"] == 2.0
            for piece in pieces[20:]:
                await second.send(piece)
            await second.send({"type": "stop"})
            told = await second.closed()
    tags = first.told.tags + told.tags
    assert [(t["start"], t["end"]) for t in tags] == [(t["start"], t["end"]) for t in whole.tags]
    for mine, theirs in zip(tags, whole.tags, strict=True):
        ours = {tag["label"]: tag["score"] for tag in mine["tags"]}
        for tag in theirs["tags"]:
            # The fake model counts samples near a level: one that is rounded the other way moves a score by 1/16000.
            assert ours[tag["label"]] == pytest.approx(tag["score"], abs=3e-4)


def worker_with(service: ServiceProcess, listener: Listener) -> int:
    """Return the id of the process at the other end of a stream's connection."""
    ours = listener.socket.local_address[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = {row[9] for row in rows if int(row[2].partition(":")[2], 16) == ours and row[9] != "0"}
    links = {pid: {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()} for pid in service.children()}
    return next(pid for pid, targets in links.items() if f"socket:[{inode}]" in targets)


@pytest.mark.slow
async def test_a_stream_whose_worker_is_only_slow_to_answer_is_refused_and_goes_on_once_it_answers(tmp_path: Path) -> None:
    environ = {"SONOTAG_WORKERS": "2", "SONOTAG_WATCHDOG_SECONDS": "600"}
    with running("tests.support.fake_service", cwd=tmp_path, environ=environ) as service:
        url = await asyncio.to_thread(service.wait_ready)
        async with Stream(url, RAW) as first:
            ready = await speak_a_second(first)
            holder = worker_with(service, first)
            os.kill(holder, signal.SIGSTOP)  # a process whose event loop is busy answers as little
            try:
                break_off(first)
                resume = {**RAW, "resume_token": ready["resume_token"], "last_seq": last_seq(first)}
                with pytest.raises(InvalidStatus) as refusal:
                    await connect(stream_url(url, resume))
                answer = refusal.value.response
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
                error = json.loads(answer.body)["error"]
                assert (error["code"], error["param"], error["retryable"]) == ("unavailable", "resume_token", True)
                async with Stream(url) as second:  # in `start` it is the same, after the upgrade
                    await second.send({"type": "start", **resume})
                    told = await second.closed()
                assert told.code == 4503
                assert [(message["code"], message["fatal"]) for message in told.messages] == [("unavailable", True)]
            finally:
                os.kill(holder, signal.SIGCONT)
        await until(url, 'sonotag_streams_refused_total{reason="unavailable"} 1.0')
        async with going_on(url, ready["resume_token"], last_seq(first)) as (third, again):
            assert (again["resumed_at"], again["missing"]) == (1.0, [])
            await third.send(SECOND)
            assert (await third.until("tags"))["end"] == 1.5
        assert await asyncio.to_thread(service.end_cleanly) == 0


async def test_any_worker_goes_on_with_a_stream_but_a_dead_one_has_taken_its_streams_along(tmp_path: Path) -> None:
    environ = {"SONOTAG_WORKERS": "2", "SONOTAG_MAX_STREAMS": "1"}
    with running("tests.support.fake_service", cwd=tmp_path, environ=environ) as service:
        url = await asyncio.to_thread(service.wait_ready)
        workers: set[tuple[str, str]] = set()
        for _ in range(100):
            async with Stream(url, RAW) as first:
                ready = await speak_a_second(first)
                # The only place is taken by the connection that is left for this one.
                async with going_on(url, ready["resume_token"], last_seq(first)) as (unheard, _):
                    break_off(unheard)
                async with going_on(url, ready["resume_token"], last_seq(first)) as (second, again):
                    assert again["resumed_at"] == 1.0
                    await second.send(SECOND)
                    assert (await second.until("tags"))["end"] == 1.5
                    workers.add((ready["resume_token"].split(".")[0], again["resume_token"].split(".")[0]))
            await until(url, "sonotag_streams_open 0.0")
            if len(workers) == 4:
                break
        assert len({pair for pair in workers if pair[0] != pair[1]}) == 2, "from each worker to the other one"

        async with Stream(url, RAW) as lost:
            ready = await lost.until("ready")
            for pid in service.children():
                os.kill(pid, signal.SIGKILL)
            await lost.closed()
        async with asyncio.timeout(60):
            while True:  # the new workers answer 503 while they load: there is no other one that could answer
                with suppress(InvalidStatus, OSError):
                    async with going_on(url, ready["resume_token"], 0) as (second, again):
                        assert "resumed_at" not in again
                        assert (await second.until("error"))["code"] == "resume_unknown"
                    break
        assert await asyncio.to_thread(service.end_cleanly) == 0
