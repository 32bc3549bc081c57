from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import soundfile

from service.audio.pipe import DecoderThread
from service.errors import UndecodableAudio
from tests.support.sounds import FloatArray, noise


def flac(sound: FloatArray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, 16_000, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def take_all(decoder: DecoderThread) -> list[FloatArray]:
    pieces = []
    while (piece := decoder.take()) is not None:
        pieces.append(piece)
    return pieces


def test_what_is_pushed_comes_out_before_the_decoder_asks_for_more() -> None:
    sound = np.rint(noise(5.0, 16_000) * 2**15).astype(np.float32) / 2**15
    data = flac(sound)
    decoder = DecoderThread(channel=None)
    decoder.start("flac")
    decoder.push(data[: len(data) // 2])
    first = np.concatenate(take_all(decoder))
    assert decoder.take() is None, "asked again, it still has nothing, and does not wait"
    assert 0 < len(first) < 48_000, "FFmpeg looks ten frames of FLAC ahead"
    decoder.push(data[len(data) // 2 :])
    decoder.end()
    np.testing.assert_array_equal(np.concatenate([first, *take_all(decoder)]), sound)
    assert (decoder.sample_rate, decoder.channels) == (16_000, 1)


def test_sound_that_nobody_takes_stops_at_a_second() -> None:
    decoder = DecoderThread(channel=None)
    decoder.start("flac")
    decoder.push(flac(np.zeros(16_000 * 300, np.float32)))
    decoder.end()
    pieces = take_all(decoder)
    assert sum(len(piece) for piece in pieces) == 16_000 * 300
    assert max(len(piece) for piece in pieces) < 32_000


def test_what_ends_the_decoder_is_told_each_time() -> None:
    decoder = DecoderThread(channel=None)
    decoder.start("flac")
    decoder.push(b"fLaC" + bytes(1_000))
    decoder.end()
    for _ in range(2):
        with pytest.raises(UndecodableAudio):
            decoder.take()


def test_after_its_end_bytes_are_dropped() -> None:
    decoder = DecoderThread(channel=None)
    decoder.start("flac")
    decoder.push(flac(noise(1.0, 16_000)))
    decoder.end()
    assert sum(len(piece) for piece in take_all(decoder)) == 16_000
    decoder.push(b"more")
    assert decoder.take() is None


def test_closed_before_it_starts_it_never_does() -> None:
    decoder = DecoderThread(channel=None)
    decoder.close()
    before = threading.active_count()
    decoder.start("flac")
    assert threading.active_count() == before
    decoder.push(b"fLaC")
    assert decoder.take() is None


def test_close_from_another_thread_ends_a_take_that_waits() -> None:
    decoder = DecoderThread(channel=None)
    taken: list[FloatArray | None] = []
    waiting = threading.Thread(target=lambda: taken.append(decoder.take()))
    waiting.start()
    decoder.close()
    waiting.join(timeout=30)
    assert taken == [None]
