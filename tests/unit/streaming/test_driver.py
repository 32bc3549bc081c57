"""The driver with a channel that is no socket. What it does on sockets is tested with real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.engine import Engine
from service.errors import Unavailable, UndecodableAudio
from service.inference.batcher import Batcher
from service.inference.catalog import Catalog
from service.inference.policy import Priority
from service.keeper.client import LocalKeeper
from service.keeper.keeper import Keeper
from service.keeper.topics import FETCH_STREAM, StreamToken
from service.observer import NullObserver
from service.settings import Settings
from service.stream_parking import MAX_ARRIVING, OwnParking, StreamParking
from service.streaming.driver import StreamDriver
from service.streaming.messages import ErrorMessage, EventMessage, Ready, ServerMessage, Summary, Tags
from service.streaming.outbox import MAX_OUTBOX
from service.streaming.state import load_state
from tests.support.runners import FakeRunner, level

RAW = [("encoding", "s16le"), ("sample_rate", "16000"), ("threshold", "0.5")]
SECOND = level(1, 16_000).tobytes()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    runner = FakeRunner(batch_sizes=(1,))
    with ThreadPoolExecutor(2) as executor:
        settings = Settings(_env_file=None, max_ahead_seconds=3, max_messages_per_second=1000)
        engine = Engine(settings=settings, metrics=NullObserver(), executor=executor)
        batcher = Batcher(runner, max_queue_windows=8, observer=engine.metrics)
        engine.catalog = Catalog({"fake": batcher})
        engine.catalog.start()
        yield engine
        await engine.close()


@pytest.fixture
async def keeper(engine: Engine) -> AsyncIterator[LocalKeeper]:
    keeper = LocalKeeper(Keeper(engine.settings))
    await keeper.start()
    yield keeper
    await keeper.close()


@pytest.fixture
def parking(keeper: LocalKeeper) -> Iterator[StreamParking]:
    parking = StreamParking(keeper, keep_seconds=30)
    yield parking
    parking.close()


class ListChannel:
    """Gives what a list holds, then waits for ever; keeps what is sent."""

    def __init__(self, *frames: str | bytes | Exception) -> None:
        self._frames = list(frames)
        self.sent: list[ServerMessage] = []
        self.closed: list[int] = []
        self.num_received = 0
        self._awaited = 0
        self._has_received = asyncio.Event()
        self.is_waiting = asyncio.Event()
        self.confirms_close = True
        self.may_send = asyncio.Event()
        self.may_send.set()

    async def receive(self) -> str | bytes:
        if not self._frames:
            self.is_waiting.set()
            await asyncio.Event().wait()
        frame = self._frames.pop(0)
        if isinstance(frame, Exception):
            raise frame
        self.num_received += 1
        if self.num_received == self._awaited:
            self._has_received.set()
        return frame

    async def wait_received(self, number: int) -> None:
        """Wait until so many frames were taken, and then for whatever else is ready to run."""
        self._awaited = number
        await self._has_received.wait()
        for _ in range(100):
            await asyncio.sleep(0)

    async def send(self, message: ServerMessage) -> None:
        await self.may_send.wait()
        self.sent.append(message)

    async def close(self, code: int, reason: str) -> None:
        self.closed.append(code)

    async def has_arrived(self) -> bool:
        return self.confirms_close


async def run_until_left(engine: Engine, channel: ListChannel, parking: StreamParking) -> tuple[StreamDriver, str]:
    """Run a stream until its connection is over and nothing is held for it; return it and its token."""
    driver = StreamDriver(engine, channel, "id", resumption=parking.of(""))
    await driver.run(RAW)
    driver.is_left.set()
    ready = channel.sent[0]
    assert isinstance(ready, Ready)
    assert ready.resume_token
    return driver, ready.resume_token


async def test_stop_ends_a_stream_that_waits_for_its_next_frame(engine: Engine) -> None:
    channel = ListChannel(SECOND, SECOND[:16_000])
    driver = StreamDriver(engine, channel, "id")
    running = asyncio.create_task(driver.run(RAW))
    await channel.is_waiting.wait()
    driver.stop()
    await running
    assert (driver.close_code, channel.closed) == (1000, [1000])
    assert [round(message.end, 3) for message in channel.sent if isinstance(message, Tags)] == [1.0, 1.5]
    summary = channel.sent[-1]
    assert isinstance(summary, Summary)
    assert (summary.duration, summary.windows) == (1.5, 2)


async def test_stop_ends_a_stream_whose_reading_is_paused(engine: Engine) -> None:
    channel = ListChannel(*[SECOND] * 20)
    channel.may_send.clear()
    runner = engine.catalog.get(None).runner
    assert isinstance(runner, FakeRunner)
    runner.hold()
    driver = StreamDriver(engine, channel, "id")
    running = asyncio.create_task(driver.run([*RAW, ("on_lag", "wait")]))
    await channel.wait_received(4)  # one second more than may be ahead
    assert driver.session.is_paused(engine.clock())
    driver.stop()
    runner.release()
    channel.may_send.set()
    await running
    assert driver.close_code == 1000
    summary = channel.sent[-1]
    assert isinstance(summary, Summary)
    assert summary.duration == summary.windows == channel.num_received == 4


async def test_sound_that_cannot_be_read_on_ends_the_stream_after_what_came(engine: Engine) -> None:
    channel = ListChannel(SECOND, UndecodableAudio("the file is broken from here on"))
    driver = StreamDriver(engine, channel, "id")
    await driver.run(RAW)
    assert [type(message) for message in channel.sent] == [Ready, Tags, EventMessage, EventMessage, ErrorMessage]
    error = channel.sent[-1]
    assert isinstance(error, ErrorMessage)
    assert (error.code, error.fatal) == ("undecodable_audio", True)
    assert channel.closed == [4415]


async def test_the_other_side_that_is_gone_ends_the_stream(engine: Engine) -> None:
    channel = ListChannel(SECOND, ConnectionResetError("gone"))
    driver = StreamDriver(engine, channel, "id")
    await driver.run(RAW)
    assert (driver.close_code, channel.closed) == (None, [])
    assert driver.session.is_closed


async def test_who_takes_nothing_is_not_read(engine: Engine) -> None:
    ping = '{"type": "update", "top_k": 1}'
    channel = ListChannel(*[ping] * (2 * MAX_OUTBOX), '{"type": "stop"}')
    channel.may_send.clear()
    driver = StreamDriver(engine, channel, "id")
    running = asyncio.create_task(driver.run(RAW))
    await channel.wait_received(MAX_OUTBOX)
    assert channel.num_received <= MAX_OUTBOX + 2
    channel.may_send.set()
    await running
    assert driver.close_code == 1000
    assert len(channel.sent) == 2 * MAX_OUTBOX + 2
    assert np.all(np.diff([message.seq or 0 for message in channel.sent]) == 1)


class StuckChannel(ListChannel):
    """The other side takes one message and nothing after it."""

    async def send(self, message: ServerMessage) -> None:
        if not self.may_send.is_set():
            self.may_send.set()  # what follows are the last words
            raise TimeoutError
        await super().send(message)
        if len(self.sent) == 1:
            self.may_send.clear()


async def test_who_takes_nothing_for_too_long_is_told_so_and_closed(engine: Engine) -> None:
    channel = StuckChannel(*[SECOND] * 3)
    driver = StreamDriver(engine, channel, "id")
    await driver.run(RAW)
    assert [type(message) for message in channel.sent] == [Ready, ErrorMessage]
    error = channel.sent[-1]
    assert isinstance(error, ErrorMessage)
    assert (error.code, error.fatal) == ("slow_reader", True)
    assert "SONOTAG_SEND_SECONDS" in error.message
    assert error.seq > 1  # a client that still reads it sees what it has missed
    assert (driver.close_code, channel.closed) == (4408, [4408])


async def test_who_takes_not_even_the_last_words_is_left(engine: Engine) -> None:
    class DeafChannel(ListChannel):
        async def send(self, message: ServerMessage) -> None:
            raise TimeoutError

    channel = DeafChannel(SECOND)
    driver = StreamDriver(engine, channel, "id")
    await driver.run(RAW)
    assert channel.closed == []


async def test_sound_ahead_of_real_time_waits_behind_who_speaks_now(engine: Engine) -> None:
    batcher = engine.catalog.get(None)
    runner = batcher.runner
    assert isinstance(runner, FakeRunner)
    runner.hold()
    running = asyncio.create_task(batcher.submit(level(3, 16_000), priority=Priority.LIVE))
    await asyncio.to_thread(runner.wait_for_runs, 1)
    file = ListChannel(*[level(2, 16_000).tobytes()] * 3)
    speaking = ListChannel(SECOND)
    streams = []
    for channel, on_lag in ((file, "wait"), (speaking, "skip")):
        driver = StreamDriver(engine, channel, "id")
        streams.append(asyncio.create_task(driver.run([*RAW, ("on_lag", on_lag)])))
        await channel.is_waiting.wait()
        driver.stop()
    while batcher.depth < 4:  # noqa: ASYNC110
        await asyncio.sleep(0)
    runner.release()
    await asyncio.gather(running, *streams)
    heard = [int(call.waveform[row, 0]) // 1000 for call in runner.calls for row in range(len(call.lengths))]
    assert heard == [3, 2, 1, 2, 2]  # the file's first second is no further ahead than pieces of a second may be


async def test_a_stream_asks_for_its_hop_and_is_refused_what_there_is_not(engine: Engine) -> None:
    live = engine.catalog.get(None).live
    live.record_run(1, 0.1)
    others = live.take(6.0)
    place = live.take(1.0)
    channel = ListChannel('{"type": "update", "hop": 0.5}', '{"type": "update", "hop": 0.1}', '{"type": "stop"}')
    await StreamDriver(engine, channel, "id", place=place).run(RAW)
    refusals = [message for message in channel.sent if isinstance(message, ErrorMessage)]
    assert [(message.code, message.fatal) for message in refusals] == [("queue_full", False)]
    assert channel.closed == [1000]
    assert live.asked == 8

    channel = ListChannel('{"type": "start", "hop": 0.1}')
    others.release()
    await StreamDriver(engine, channel, "id", place=live.take(1.0)).run(RAW[:1])
    place.release()
    channel = ListChannel('{"type": "start", "encoding": "s16le", "sample_rate": 16000, "hop": 0.1}')
    blocker = live.take(5.0)
    await StreamDriver(engine, channel, "id", place=live.take(1.0)).run([])
    error = channel.sent[-1]
    assert isinstance(error, ErrorMessage)
    assert (error.code, error.fatal, channel.closed) == ("queue_full", True, [4503])
    blocker.release()


async def test_a_stream_that_is_asked_for_in_vain_waits_on(engine: Engine, keeper: LocalKeeper, parking: StreamParking) -> None:
    runner = engine.catalog.get(None).runner
    assert isinstance(runner, FakeRunner)
    runner.hold()
    channel = ListChannel(SECOND, ConnectionResetError())
    _, token = await run_until_left(engine, channel, parking)
    with pytest.raises(Unavailable):  # whoever asks has left before the model has answered
        await keeper.ask(FETCH_STREAM, StreamToken(token=token, owner=""), seconds=0.01)
    assert parking.num_held == 1
    runner.release()
    assert await parking.fetch(token, "") is not None
    assert parking.num_held == 0


@pytest.mark.parametrize("confirms_close", [True, False])
async def test_a_stream_whose_end_does_not_arrive_is_kept(
    engine: Engine, parking: StreamParking, *, confirms_close: bool
) -> None:
    channel = ListChannel(SECOND, '{"type": "stop"}')
    channel.confirms_close = confirms_close
    driver, token = await run_until_left(engine, channel, parking)
    assert (channel.closed, parking.num_held) == ([1000], 0)
    await driver.wait_arrived()
    assert parking.num_held == (0 if confirms_close else 1)
    text = await parking.fetch(token, "")
    assert (text is None) == confirms_close
    if text is not None:
        state = load_state(text)
        assert state is not None
        assert state.close == (1000, "done")


async def test_a_stream_that_failed_before_the_model_answered_is_given_at_once(engine: Engine, parking: StreamParking) -> None:
    runner = engine.catalog.get(None).runner
    assert isinstance(runner, FakeRunner)
    runner.hold()
    channel = ListChannel(SECOND, '{"type": "start"}')  # which cannot come now
    channel.confirms_close = False
    driver, token = await run_until_left(engine, channel, parking)
    await driver.wait_arrived()
    text = await parking.fetch(token, "")
    state = load_state(text or "")
    assert state is not None
    assert state.close == (4400, "protocol")
    runner.release()


class SlowParking(OwnParking):
    """Gives a stream when the test says so."""

    def __init__(self, parking: StreamParking) -> None:
        super().__init__(parking, "")
        self.is_asked, self.may_give = asyncio.Event(), asyncio.Event()

    async def fetch(self, token: str) -> str | None:
        text = await super().fetch(token)
        self.is_asked.set()
        await self.may_give.wait()
        return text


async def test_a_server_that_goes_away_lets_a_stream_arrive_that_is_on_its_way(engine: Engine, parking: StreamParking) -> None:
    channel = ListChannel(SECOND, ConnectionResetError())
    _, token = await run_until_left(engine, channel, parking)

    slow = SlowParking(parking)
    channel = ListChannel()
    driver = StreamDriver(engine, channel, "id", resumption=slow)
    running = asyncio.create_task(driver.run([*RAW, ("resume_token", token)]))
    await slow.is_asked.wait()
    driver.drain()
    slow.may_give.set()
    await running
    assert isinstance(channel.sent[0], Ready)
    assert channel.sent[0].resumed_at == 1.0
    assert [message.type for message in channel.sent[1:]] == ["tags", "event", "going_away", "event"]
    assert channel.closed == [1001]


async def test_of_too_many_ends_on_their_way_none_is_waited_for(engine: Engine, parking: StreamParking) -> None:
    others = [parking.make_token() for _ in range(MAX_ARRIVING)]
    assert all(parking.expect(token) for token in others)
    channel = ListChannel(SECOND, '{"type": "stop"}')
    channel.confirms_close = False
    driver, token = await run_until_left(engine, channel, parking)
    await driver.wait_arrived()
    assert await parking.find(token, "") is None
    assert parking.num_held == 0
