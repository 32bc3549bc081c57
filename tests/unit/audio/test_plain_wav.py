from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from service.audio.decoding import open_audio
from service.audio.intake import file_samples
from service.audio.plain_wav import PlainWav, open_plain_wav
from service.observer import Stage
from tests.support.sounds import Int16Array, noise

RATE = 16_000
heard: list[Stage] = []


def written(num_channels: int, sample_rate: int, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    sound = np.stack([noise(2.6, sample_rate, seed=seed) for seed in range(num_channels)], axis=1)
    file = io.BytesIO()
    soundfile.write(file, sound, sample_rate, format=format, subtype=subtype)
    return file.getvalue()


def opened(data: bytes, channel: int | None = None, file: io.BytesIO | None = None) -> PlainWav | None:
    ticks = iter(range(1_000_000))
    return open_plain_wav(
        file or io.BytesIO(data),
        channel=channel,
        target_rate=RATE,
        observe=lambda stage, _: heard.append(stage),
        clock=lambda: float(next(ticks)),
    )


def decoded(data: bytes, channel: int | None = None) -> Int16Array:
    with open_audio(io.BytesIO(data), channel=channel) as audio:
        return np.concatenate(list(file_samples(audio, RATE)))


@pytest.mark.parametrize("sample_rate", [8_000, RATE, 44_100, 192_000])
@pytest.mark.parametrize(("num_channels", "channel"), [(1, None), (1, 0), (2, None), (2, 1), (8, None)])
def test_its_samples_are_those_that_a_decoder_gives(sample_rate: int, num_channels: int, channel: int | None) -> None:
    for format in ("WAV", "WAVEX"):
        data = written(num_channels, sample_rate, format=format)
        plain = opened(data, channel)
        assert plain is not None
        assert (plain.sample_rate, plain.num_frames) == (sample_rate, round(2.6 * sample_rate))
        pieces = list(plain.samples())
        np.testing.assert_array_equal(np.concatenate(pieces), decoded(data, channel))
        assert plain.num_read_bytes == len(data)
        plain.close()


def test_what_follows_the_sound_is_no_sound() -> None:
    data = written(1, RATE)
    plain = opened(data + b"LIST\x04\0\0\0abcd")
    assert plain is not None
    np.testing.assert_array_equal(np.concatenate(list(plain.samples())), decoded(data))


def test_the_loudest_samples_stay_as_they_are() -> None:
    file = io.BytesIO()
    samples = np.array([-(2**15), 2**15 - 1, 0, -1, 1] * 20, np.int16)
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    plain = opened(file.getvalue())
    assert plain is not None
    np.testing.assert_array_equal(np.concatenate(list(plain.samples())), samples)


def test_a_long_one_comes_in_pieces_and_each_is_measured() -> None:
    heard.clear()
    file = io.BytesIO()
    soundfile.write(file, np.zeros(20 * RATE, np.int16), RATE, format="WAV", subtype="PCM_16")
    plain = opened(file.getvalue())
    assert plain is not None
    assert [len(piece) for piece in plain.samples()] == [131_072, 131_072, 57_856]
    assert heard == ["decode"] * 3


def test_one_that_was_cut_since_it_was_opened_gives_what_is_whole() -> None:
    data = written(1, RATE)
    file = io.BytesIO(data)
    plain = opened(data, file=file)
    assert plain is not None
    file.truncate(len(data) - 1)
    np.testing.assert_array_equal(np.concatenate(list(plain.samples())), decoded(data)[:-1])


def cut_header(data: bytes, num_bytes: int) -> bytes:
    """Return the file with another length of its sound in its header."""
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", num_bytes) + data[place + 4 :]


@pytest.mark.parametrize(
    ("data", "channel"),
    [
        (b"", None),
        (b"no sound at all, and long enough to be some", None),
        (written(1, RATE, "FLOAT"), None),
        (written(1, RATE, "PCM_24"), None),
        (written(1, RATE, "PCM_U8"), None),
        (written(1, RATE, "ULAW"), None),
        (written(1, RATE, format="FLAC"), None),
        (written(9, RATE), None),
        (written(2, RATE), 2),
        (written(1, RATE), -1),
        (written(1, 2_000), None),
        (written(1, RATE)[:-1], None),
        (cut_header(written(1, RATE), 0), None),
        (cut_header(written(1, RATE), 0xFFFFFFFF), None),
        (cut_header(written(1, RATE), 2001), None),
        (cut_header(written(2, RATE), 2002), None),
        (written(1, RATE) + b"LIST\x03\0\0\0odd\0data\x02\0\0\0ab", None),
        (written(1, RATE) + b"fmt \0\0\0\0", None),
        (written(1, RATE) + b"LIST\0\0\0\0" * 64 + b"LIST\0\0\0\0", None),
        (b"ID3\x04\0\0\0\0\0\0" + written(1, RATE), None),
    ],
)
def test_anything_else_is_left_to_a_decoder(data: bytes, channel: int | None) -> None:
    assert opened(data, channel) is None
