"""The client against a real service in this process, and against servers that are none."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from service.answers import ClipAnswer
from service.client import AsyncClient, BadAnswer, Client, ClientClosed, Disconnected, Retry, Unreachable
from service.errors import (
    ClipTooShort,
    Draining,
    InvalidParameter,
    QueueFull,
    ServiceError,
    Unavailable,
    UndecodableAudio,
    UnknownLabel,
    UnsupportedAudio,
)
from service.streaming.messages import (
    Configured,
    ErrorMessage,
    EventMessage,
    Flush,
    GoingAway,
    Ready,
    ServerMessage,
    Summary,
    Tags,
    Update,
)
from tests.support.app_server import AppServer, serving
from tests.support.rest import DOG, MUSIC, SILENCE, SPEECH, heard, wav
from tests.support.runners import FakeRunner

TIMEOUT_SECONDS = 60


class Pauses:
    """What the client sleeps between its tries: no time at all, and what the test does meanwhile."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._meanwhile = meanwhile

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.to_thread(self._meanwhile)

    def retry(self, **options: float) -> Retry:
        return Retry(sleep=self.sleep, random=lambda: 0.0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    with serving() as started:
        yield started


@pytest.fixture
def client(server: AppServer) -> Iterator[Client]:
    with Client(server.url) as opened:
        yield opened


def top(answer: ClipAnswer | None) -> str:
    assert answer is not None
    return answer.tags[0].label


def test_the_same_sound_gives_the_same_answer_in_every_form(client: Client, tmp_path: Path) -> None:
    samples = heard((MUSIC, 0.75), (DOG, 0.25))
    path = tmp_path / "x.wav"
    path.write_bytes(wav(samples))
    with path.open("rb") as file:
        answers = [
            client.classify(path),
            client.classify(str(path)),
            client.classify(wav(samples)),
            client.classify(file),
            client.classify(io.BytesIO(wav(samples))),
            client.classify(samples, sample_rate=16_000),
            client.classify((samples / 32_768).astype(np.float64), sample_rate=16_000),
            client.classify(np.stack([samples, samples], axis=1), sample_rate=16_000),
        ]
    assert [(tag.label, tag.score) for tag in answers[0].tags[:2]] == [("Music", 0.75), ("Dog", 0.25)]
    assert all(answer == answers[0] for answer in answers)


def test_every_field_of_the_query_is_sent(client: Client) -> None:
    answer = client.classify(
        wav(heard((MUSIC, 2), (DOG, 1))),
        top_k=2,
        threshold=0.5,
        labels=["Dog", 2],
        exclude=["dog"],
        window=0.5,
        hop=0.25,
        aggregate="max",
        timeline=True,
        embedding=True,
        events={"onset_threshold": 0.9, "min_duration": 0.1},
        model="fake",
        channel=0,
    )
    assert [(tag.label, tag.score) for tag in answer.tags] == [("Music", 1.0)]
    assert answer.windows is not None
    assert [window.end for window in answer.windows][:3] == [0.25, 0.5, 0.75]
    assert answer.events is not None
    assert [(event.label, event.onset) for event in answer.events] == [("Music", 0.0)]
    assert answer.embedding is not None
    assert len(answer.embedding) == 4


@pytest.mark.parametrize(
    ("clip", "fields", "kind", "param"),
    [
        (wav(heard((MUSIC, 1))), {"labels": ["Dgo"]}, UnknownLabel, "labels"),
        (wav(heard((MUSIC, 1))), {"model": "none"}, ServiceError, "model"),
        (wav(heard((MUSIC, 1))), {"top_k": 0}, InvalidParameter, "top_k"),
        (wav(heard((MUSIC, 1))), {"topk": 1}, InvalidParameter, "topk"),
        (wav(heard((MUSIC, 1))), {"sample_rate": 8000}, InvalidParameter, "sample_rate"),
        (heard((MUSIC, 1)), {}, InvalidParameter, "sample_rate"),
        (np.zeros((1, 1, 1)), {"sample_rate": 8000}, InvalidParameter, None),
        (np.zeros(8000, np.int64), {"sample_rate": 8000}, InvalidParameter, None),
        (b"this is no sound at all" * 100, {}, UnsupportedAudio, None),
        (wav(heard((MUSIC, 0.001))), {}, ClipTooShort, None),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", {}, UndecodableAudio, None),
    ],
)
def test_an_error_is_of_the_class_that_the_server_raised(
    client: Client, clip: bytes, fields: dict[str, object], kind: type[ServiceError], param: str | None
) -> None:
    with pytest.raises(kind) as caught:
        client.classify(clip, **fields)  # type: ignore[arg-type]
    assert caught.value.param == param
    assert not caught.value.retryable
    assert caught.value.message


async def test_who_watches_gets_the_same_answer_and_is_told_how_much_is_done(server: AppServer) -> None:
    clip = wav(heard((SPEECH, 2), (DOG, 2)))
    fractions: list[float] = []
    async with AsyncClient(server.url) as client:
        fields = {"hop": 0.5, "timeline": True, "events": True, "embedding": True}
        watched = await client.classify(clip, on_progress=fractions.append, **fields)
        assert watched == await client.classify(clip, **fields)
        with pytest.raises(UnsupportedAudio):
            await client.classify(b"no sound " * 1000, on_progress=fractions.append)
    assert watched.windows
    assert len(fractions) == len(watched.windows)
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < fractions[-1] == 1


def test_who_watches_without_an_event_loop_is_told_too(client: Client) -> None:
    fractions: list[float] = []
    clip = wav(heard((SPEECH, 2)))
    assert client.classify(clip, hop=1, on_progress=fractions.append) == client.classify(clip, hop=1)
    assert fractions == [0.5, 1]


@pytest.mark.parametrize("is_watched", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_timeline_that_is_too_long_is_refused_whether_or_not_anybody_watches(is_watched: bool) -> None:
    clip, labels = wav(heard((SPEECH, 26))), [f"Sound {i}" for i in range(1000)]
    with serving(FakeRunner(labels=labels)) as server, Client(server.url) as client:
        on_progress = (lambda fraction: None) if is_watched else None
        with pytest.raises(InvalidParameter, match="more than 250000 tags") as caught:
            client.classify(clip, timeline=True, hop=0.1, top_k=1000, on_progress=on_progress)
        assert caught.value.param == "timeline"


def test_a_missing_file_is_the_systems_own_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.classify(tmp_path / "missing.wav")


def test_many_clips_are_answered_in_order_and_a_bad_one_does_not_end_the_rest(client: Client, tmp_path: Path) -> None:
    labels = [MUSIC, DOG, None, SPEECH, MUSIC, SILENCE, DOG]
    paths = [tmp_path / f"{index}.wav" for index in range(len(labels) + 1)]
    for path, label in zip(paths, labels, strict=False):
        path.write_bytes(b"no sound" * 500 if label is None else wav(heard((label, 1))))
    results = list(client.classify_many(paths, concurrency=3, top_k=1))
    assert [result.clip for result in results] == paths
    assert isinstance(results[2].error, UnsupportedAudio)
    assert isinstance(results[7].error, FileNotFoundError)
    good = [top(result.answer) for result in results if result.error is None]
    assert good == ["Music", "Dog", "Speech", "Music", "Silence", "Dog"]


def test_no_more_clips_are_taken_than_are_under_way(client: Client) -> None:
    taken = []

    def clips() -> Iterator[bytes]:
        for index in range(10):
            taken.append(index)
            yield wav(heard((MUSIC, 1)))

    results = client.classify_many(clips(), concurrency=3)
    next(results)
    assert taken == [0, 1, 2]
    results.close()  # type: ignore[attr-defined]
    assert taken == [0, 1, 2]


def test_a_full_queue_is_tried_again_after_the_time_that_it_says() -> None:
    runner = FakeRunner()
    with serving(runner, max_queue_windows=1) as server:
        runner.hold()
        with Client(server.url, retry=Retry(attempts=1)) as hasty:
            # One is in the model, one in the queue.
            results = hasty.classify_many([wav(heard((DOG, 1)))] * 6, concurrency=6)
            refused: list[ServiceError | OSError | None] = []
            thread = threading.Thread(target=lambda: refused.extend(result.error for result in results))
            thread.start()
            runner.wait_for_runs(1)
            while thread.is_alive() and 'status="503"' not in httpx.get(f"{server.url}/metrics").text:
                pass  # the queue is full once one of them was refused
            pauses = Pauses(lambda: (runner.release(), thread.join(TIMEOUT_SECONDS))[0])
            with Client(server.url, retry=pauses.retry()) as patient:
                assert top(patient.classify(wav(heard((MUSIC, 1))))) == "Music"
            thread.join(TIMEOUT_SECONDS)
    assert any(isinstance(error, QueueFull) and error.retryable for error in refused)
    assert pauses.seconds == [1.0]


async def test_a_server_that_comes_back_is_found_again() -> None:
    first = AppServer(FakeRunner(), {})
    port = int(first.url.rsplit(":", 1)[1])
    first.end()
    later: list[AppServer] = []
    pauses = Pauses(lambda: None if later else later.append(AppServer(FakeRunner(), {"port": port})))
    try:
        async with AsyncClient(first.url, retry=pauses.retry()) as client:
            assert top(await client.classify(wav(heard((DOG, 1))))) == "Dog"
    finally:
        for server in later:
            server.end()
    assert pauses.seconds == [0.25]


async def test_nobody_is_asked_for_ever() -> None:
    pauses = Pauses()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with AsyncClient(url, retry=pauses.retry(attempts=4)) as client:
            with pytest.raises(Unreachable) as caught:
                await client.classify(wav(heard((DOG, 1))))
            assert pauses.seconds == [0.25, 0.5, 1.0]
            with pytest.raises(Unreachable):
                async for _ in client.stream(b""):
                    pass
    assert caught.value.retryable
    assert len(pauses.seconds) == 6


async def test_a_name_that_cannot_be_resolved_is_asked_for_again_and_then_said_to_be_the_reason() -> None:
    pauses = Pauses()
    async with AsyncClient("http://sonotag.invalid", retry=pauses.retry(attempts=3)) as client:
        with pytest.raises(Unreachable, match=r"its name cannot be resolved"):
            await client.classify(wav(heard((DOG, 1))))
        with pytest.raises(Unreachable, match=r"its name cannot be resolved"):
            async for _ in client.stream(b""):
                pass
    assert len(pauses.seconds) == 4


async def test_what_is_no_sonotag_is_said_to_be_none() -> None:
    pages = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"]
    pages += [b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"] * 2
    pages += [b"HTTP/1.1 502 Bad Gateway\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"] * 2

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(pages.pop(0))
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    pauses = Pauses()
    async with listening, AsyncClient(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(BadAnswer):
            await client.classify(b"x")
        with pytest.raises(BadAnswer, match="404"):
            await client.classify(b"x")
        with pytest.raises(BadAnswer, match="404"):
            await anext(client.stream(b"x"))
        async with AsyncClient(client._url, retry=pauses.retry(attempts=2)) as patient:
            with pytest.raises(Unavailable, match="502"):
                await patient.classify(b"x")
    assert pauses.seconds == [7.0]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ws://127.0.0.1:8000", "http://", "file:///etc"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameter, match="http"):
        Client(url)


@pytest.mark.parametrize("form", ["path", "bytes", "samples", "file", "pieces", "async pieces"])
def test_a_stream_of_every_form_gives_the_same_messages(client: Client, tmp_path: Path, form: str) -> None:
    samples = heard((MUSIC, 1.5), (DOG, 1.5))
    data = wav(samples)
    (tmp_path / "x.wav").write_bytes(data)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1001):
            yield data[start : start + 1001]

    sources = {
        "path": tmp_path / "x.wav",
        "bytes": data,
        "samples": samples,
        "file": io.BytesIO(data),
        "pieces": [data[start : start + 1001] for start in range(0, len(data), 1001)],
        "async pieces": pieces(),
    }
    fields = {"sample_rate": 16_000} if form == "samples" else {}
    messages = list(client.stream(sources[form], hop=0.5, top_k=1, **fields))  # type: ignore[arg-type]
    assert isinstance(messages[0], Ready)
    assert messages[0].configuration.on_lag == ("wait" if form in ("path", "bytes", "samples") else "skip")
    tags = [message for message in messages if isinstance(message, Tags)]
    assert [message.end for message in tags] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [message.tags[0].label for message in tags[:3]] == ["Music"] * 3
    events = [message for message in messages if isinstance(message, EventMessage) and message.phase == "offset"]
    assert {event.label for event in events} == {"Music", "Dog"}
    assert isinstance(messages[-1], Summary)
    assert (messages[-1].duration, messages[-1].windows, messages[-1].dropped_seconds) == (3.0, 6, 0.0)


def test_what_is_wanted_can_change_while_the_sound_comes(client: Client) -> None:
    second = heard((DOG, 1)).tobytes()
    source = [second, Update(type="update", top_k=1, events=False), second, second[: len(second) // 4], Flush(type="flush")]
    messages = list(client.stream(source, encoding="s16le", sample_rate=16_000, top_k=3, events={"onset_threshold": 0.7}))
    ready, changed = messages[0], next(message for message in messages if isinstance(message, Configured))
    assert isinstance(ready, Ready)
    assert ready.configuration.events
    assert ready.configuration.events.onset_threshold == 0.7
    assert changed.from_ == 1.0
    assert changed.configuration.events is False
    assert [len(message.tags) for message in messages if isinstance(message, Tags)] == [1, 1, 1]


def test_a_refused_stream_says_why_and_then_raises(client: Client) -> None:
    messages = client.stream([b""], labels=["Dgo"], encoding="s16le", sample_rate=16_000)
    said = next(messages)
    assert isinstance(said, ErrorMessage)
    assert said.fatal
    with pytest.raises(UnknownLabel) as caught:
        next(messages)
    assert (caught.value.message, caught.value.param) == (said.message, "labels")


def test_what_the_source_raises_reaches_the_caller(client: Client) -> None:
    def broken() -> Iterator[bytes]:
        yield heard((DOG, 1)).tobytes()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(client.stream(broken(), encoding="s16le", sample_rate=16_000))


def test_who_stops_listening_leaves_nothing_open(server: AppServer) -> None:
    with Client(server.url) as client:
        messages = client.stream(heard((DOG, 30)), sample_rate=16_000)
        assert isinstance(next(messages), Ready)
        messages.close()  # type: ignore[attr-defined]
        assert top(client.classify(wav(heard((DOG, 1))))) == "Dog"
    client.close()


async def test_a_full_server_is_asked_for_a_stream_again() -> None:
    with serving(max_streams=1) as server:
        async with AsyncClient(server.url) as first:
            ready = first.stream(endless(), encoding="s16le", sample_rate=16_000)
            assert isinstance(await anext(ready), Ready)
            loop = asyncio.get_running_loop()
            ended = []

            def end() -> None:
                if not ended:
                    ended.append(asyncio.run_coroutine_threadsafe(ready.aclose(), loop).result(TIMEOUT_SECONDS))

            pauses = Pauses(end)
            async with AsyncClient(server.url, retry=pauses.retry(attempts=50)) as second:
                messages = [m async for m in second.stream(heard((DOG, 1)), sample_rate=16_000)]
    assert isinstance(messages[-1], Summary)
    assert pauses.seconds[0] == 5.0  # what the refusal says


async def endless() -> AsyncIterator[bytes]:
    yield heard((MUSIC, 1)).tobytes()
    await asyncio.Event().wait()


async def listen(
    client: AsyncClient, seen: list[ServerMessage], take: Callable[[ServerMessage], None] = lambda message: None
) -> None:
    async for message in client.stream(endless(), encoding="s16le", sample_rate=16_000):
        seen.append(message)
        take(message)


async def test_a_drain_gives_what_was_scored_and_then_raises() -> None:
    with serving() as server:
        async with AsyncClient(server.url, retry=Retry(attempts=1)) as client:
            seen: list[ServerMessage] = []

            def take(message: ServerMessage) -> None:
                if isinstance(message, Tags):
                    server.begin_drain()

            with pytest.raises(Draining) as caught:
                await listen(client, seen, take)
            assert any(isinstance(message, GoingAway) for message in seen)
            assert caught.value.retryable
            with pytest.raises((Draining, Unreachable)):
                await client.classify(wav(heard((DOG, 1))))


async def test_a_broken_stream_is_told_from_one_that_is_done() -> None:
    async def break_off(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"type": "warning", "seq": 1, "code": "lag", "message": "slow"}')
        await connection.send('{"type": "news", "seq": 2}')
        connection.transport.abort()

    async with serve(break_off, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        async with AsyncClient(f"http://127.0.0.1:{port}") as client:
            seen: list[ServerMessage] = []
            with pytest.raises(Disconnected) as caught:
                await listen(client, seen)
    assert [type(message).__name__ for message in seen] == ["Warn"]
    assert caught.value.retryable


async def test_a_server_that_reads_no_more_holds_the_source() -> None:
    runner = FakeRunner()
    with serving(runner) as server:
        runner.hold()
        sent = 0

        async def source() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 100_000:
                sent += 1
                yield heard((MUSIC, 1)).tobytes()

        async with AsyncClient(server.url) as client:
            messages = client.stream(source(), encoding="s16le", sample_rate=16_000, on_lag="wait")
            assert isinstance(await anext(messages), Ready)
            # It stands still once every buffer between is full: 3 GB would be sent otherwise.
            before, still = -1, 0
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while still < 10:
                    await asyncio.sleep(0.05)
                    still, before = (still + 1 if sent == before else 0), sent
            assert sent < 10_000
            runner.release()
            await messages.aclose()


@pytest.mark.parametrize(
    ("clip", "sample_rate", "words"),
    [
        (np.zeros((2, 16_000), np.float32), 16_000, r"16000 channels of 2 samples; .*\[n, channels\] is expected, .*\.T"),
        (np.zeros((16_000, 40)), 16_000, r"40 channels .* 1 to 32 channels"),
        (np.zeros((16_000, 0)), 16_000, "0 channels"),
        (np.zeros((2, 2, 2)), 16_000, r"\[n\] or \[n, channels\]"),
        (np.zeros(16_000), 0, "sample_rate is 0; a whole number from 4000 to 192000 Hz"),
        (np.zeros(16_000), 16_000.0, "sample_rate is 16000.0"),
        (np.zeros(16_000), None, "needs its sample_rate"),
        (np.zeros(16_000, np.int32), 16_000, "int32"),
        (None, None, "the clip is a NoneType; expected is a path"),
        ([0.0, 0.1], 16_000, "the clip is a list; .*NumPy array"),
        (io.StringIO("text"), None, "open it with the mode 'rb'"),
    ],
)
def test_what_is_no_clip_is_refused_in_words(client: Client, clip: object, sample_rate: int | None, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        client.classify(clip, sample_rate=sample_rate)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_read_as_bytes_is_refused(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wav(heard((DOG, 1))))
    with path.open() as text:
        for ask in (client.classify, lambda file: list(client.stream(file))):
            with pytest.raises(InvalidParameter, match="'rb'"):
                ask(text)
    with path.open("rb") as file:
        pass
    with pytest.raises(InvalidParameter, match="closed"):
        client.classify(file)


def test_one_label_that_is_no_list_is_not_taken_for_its_letters(client: Client) -> None:
    for labels in ("Dog", 3):
        with pytest.raises(InvalidParameter, match=f"labels is '{labels}'; a list of names or ids") as caught:
            client.classify(wav(heard((DOG, 1))), labels=labels)  # type: ignore[arg-type]
        assert caught.value.param == "labels"
        with pytest.raises(InvalidParameter, match="a list of names or ids"):
            list(client.stream(wav(heard((DOG, 1))), exclude=labels))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([np.zeros(1600, np.int16)], r"the source yields a ndarray; bytes are expected: its tobytes\(\)"),
        ([b"\0\0", "text"], "the source yields a str; bytes"),
        ([0.0, 0.1], "the source yields a float"),
        (None, "the source is a NoneType"),
    ],
)
def test_a_source_that_yields_no_bytes_is_refused_in_words(client: Client, source: object, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        list(client.stream(source, encoding="s16le", sample_rate=16_000))  # type: ignore[arg-type]


def test_bytes_of_any_kind_are_a_frame(client: Client) -> None:
    sound = heard((DOG, 1)).tobytes()
    for source in ([bytearray(sound)], [memoryview(sound)]):
        messages = list(client.stream(source, encoding="s16le", sample_rate=np.int64(16_000)))  # type: ignore[arg-type,call-overload]
        assert isinstance(messages[-1], Summary)
        assert messages[-1].duration == 1


async def test_a_closed_client_says_that_it_is_closed(server: AppServer) -> None:
    sound = wav(heard((DOG, 1)))
    client = Client(server.url)
    begun = client.stream(sound)
    next(begun)
    client.close()
    client.close()
    begun.close()  # type: ignore[attr-defined]
    for ask in (
        lambda: client.classify(sound),
        lambda: list(client.classify_many([sound])),
        lambda: list(client.stream(sound)),
        client.capacity,
    ):
        with pytest.raises(ClientClosed):
            ask()
    other = AsyncClient(server.url)
    await other.close()
    with pytest.raises(ClientClosed):
        await other.classify(sound)
    with pytest.raises(ClientClosed):
        await anext(other.stream(sound))
    with pytest.raises(ClientClosed):
        await anext(other.classify_many([sound]))
    with pytest.raises(ClientClosed):
        await other.capacity()
