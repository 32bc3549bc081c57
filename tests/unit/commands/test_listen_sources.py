from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.audio.formats import RawFormat
from service.commands.listen_sources import MAX_WAITING_READS, PIPE_BYTES, open_file, open_pipe, raw_query
from service.engine import Engine
from service.errors import InvalidParameter, UnsupportedAudio
from service.observer import NullObserver
from service.settings import Settings
from tests.support.sounds import tone, write_wav


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    with ThreadPoolExecutor(2) as executor:
        yield Engine(settings=Settings(_env_file=None), metrics=NullObserver(), executor=executor)


async def read_all(frames: AsyncIterator[bytes]) -> list[bytes]:
    return [frame async for frame in frames]


async def test_a_container_is_played_as_its_decoded_samples(engine: Engine, tmp_path: Path) -> None:
    left, right = tone(1.25, 440, 44_100), tone(1.25, 880, 44_100)
    path = write_wav(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 44_100)
    async with open_file(engine, path, None, 1, 0.0) as source:
        frames = await read_all(source.frames)
    assert source.query == [("encoding", "f32le"), ("sample_rate", "44100"), ("channels", "1")]
    assert {len(frame) for frame in frames[:12]} == {4 * 4410}
    np.testing.assert_array_equal(np.frombuffer(b"".join(frames), np.float32), right)


async def test_raw_samples_are_played_as_they_are_in_whole_frames(engine: Engine, tmp_path: Path) -> None:
    data = os.urandom(3 * 2 * 4000 + 5)
    (tmp_path / "x.raw").write_bytes(data)
    raw = RawFormat("s16le", 4000, 3)
    async with open_file(engine, tmp_path / "x.raw", raw, 2, 1000.0) as source:
        frames = await read_all(source.frames)
    assert source.query == [("encoding", "s16le"), ("sample_rate", "4000"), ("channels", "3"), ("channel", "2")]
    assert [len(frame) for frame in frames] == [6 * 400] * 10 + [5]
    assert b"".join(frames) == data


async def test_a_piece_comes_when_its_last_sample_would_be_there(engine: Engine, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "x.wav", tone(0.3, 440, 16_000), 16_000)
    started = engine.clock()
    async with open_file(engine, path, None, None, 4.0) as source:
        came = [engine.clock() - started async for _ in source.frames]
    assert len(came) == 3
    for index, seconds in enumerate(came, 1):
        assert seconds >= index * 0.1 / 4.0 - 0.001


async def test_what_is_no_sound_or_not_there_is_said_before_anything_is_played(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_text("no sound")
    with pytest.raises(UnsupportedAudio):
        async with open_file(engine, tmp_path / "x.wav", None, None, 0.0):
            pass
    with pytest.raises(FileNotFoundError):
        async with open_file(engine, tmp_path / "y.wav", None, None, 0.0):
            pass
    path = write_wav(tmp_path / "mono.wav", tone(0.3, 440, 16_000), 16_000)
    with pytest.raises(InvalidParameter):
        async with open_file(engine, path, None, 1, 0.0):
            pass


async def test_a_pipe_gives_what_is_there_and_ends_with_it() -> None:
    reading, writing = os.pipe()
    async with open_pipe(reading, None, 1) as source:
        assert source.query == [("encoding", "auto"), ("channel", "1")]
        os.write(writing, b"first")
        assert await anext(source.frames) == b"first"
        os.write(writing, b"second")
        os.close(writing)
        assert await read_all(source.frames) == [b"second"]
    os.close(reading)


async def test_a_pipe_is_not_read_far_ahead_of_who_listens() -> None:
    reading, writing = os.pipe()
    num_pieces = 3 * MAX_WAITING_READS
    sent: list[int] = []

    def write() -> None:
        sent.extend(os.write(writing, bytes(PIPE_BYTES)) for _ in range(num_pieces))
        os.close(writing)

    writer = threading.Thread(target=write)
    async with open_pipe(reading, RawFormat("s16le", 16_000, 1), None) as source:
        writer.start()
        total = len(await anext(source.frames))
        # What is not taken lies in a few pieces and in the pipe itself, so the writer waits.
        writer.join(0.05)
        assert writer.is_alive()
        assert len(sent) < num_pieces
        total += sum([len(frame) async for frame in source.frames])
    writer.join()
    os.close(reading)
    assert total == num_pieces * PIPE_BYTES


async def test_a_pipe_that_breaks_is_an_error_of_the_system(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    async with open_pipe(folder, None, None) as source:
        with pytest.raises(IsADirectoryError):
            await anext(source.frames)
    os.close(folder)


def test_the_query_of_raw_samples_is_the_wires() -> None:
    assert raw_query(RawFormat("mulaw", 8000, 1), None) == [
        ("encoding", "mulaw"),
        ("sample_rate", "8000"),
        ("channels", "1"),
    ]
