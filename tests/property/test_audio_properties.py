"""Any cutting gives the same samples; any bytes give samples or a documented error, and an end."""

from __future__ import annotations

import contextlib
import io
import itertools
from typing import get_args

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.audio.decoding import open_audio
from service.audio.formats import SAMPLE_BYTES, Encoding, RawFormat, sniff, sniff_start
from service.audio.intake import RawIntake, file_samples
from service.audio.pcm import PcmDecoder
from service.audio.recognition import IndexScanner, Recogniser
from service.audio.resampling import Resampler
from service.errors import UndecodableAudio, UnsupportedAudio
from tests.support.sounds import Int16Array, noise, stream_samples, take_in, tone

# Deadlines are off: a decoder's first call loads a library. What is checked is the result, never the time.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ENCODING = st.sampled_from(get_args(Encoding))
CUTS = st.lists(st.integers(0, 20_000), max_size=12)


def make(format: str, subtype: str, rate: int, channels: int) -> bytes:
    file = io.BytesIO()
    sound = np.stack([tone(1.5, 440, rate) + noise(1.5, rate, seed=index) for index in range(channels)], axis=1)
    soundfile.write(file, sound, rate, format=format, subtype=subtype)
    return file.getvalue()


SOUNDS = [
    make("WAV", "PCM_16", 8_000, 1),
    make("WAV", "FLOAT", 11_025, 2),
    make("WAV", "MS_ADPCM", 8_000, 1),
    make("AIFF", "PCM_24", 8_000, 1),
    make("FLAC", "PCM_16", 22_050, 2),
    make("OGG", "VORBIS", 16_000, 1),
    make("OGG", "OPUS", 16_000, 1),
    make("MP3", "MPEG_LAYER_III", 16_000, 1),
    make("W64", "ULAW", 8_000, 2),
    make("AU", "PCM_16", 8_000, 2),
]

IDS = [f"{index}-{sniff(sound)}" for index, sound in enumerate(SOUNDS)]


def samples_of_file(data: bytes) -> Int16Array:
    with open_audio(io.BytesIO(data), channel=None) as audio:
        return np.concatenate([np.zeros(0, np.int16), *file_samples(audio, 16_000)])


@RELAXED
@given(encoding=ENCODING, channels=st.integers(1, 8), rate=st.integers(4_000, 192_000), cuts=CUTS, data=st.data())
def test_a_raw_stream_gives_the_same_samples_however_it_is_cut(
    encoding: Encoding, channels: int, rate: int, cuts: list[int], data: st.DataObject
) -> None:
    num_values = channels * data.draw(st.integers(0, 2_000))
    if encoding == "f32le":
        floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
        sound = data.draw(hnp.arrays("<f4", num_values, elements=floats, fill=floats)).tobytes()
    else:
        seed = data.draw(st.integers(0, 2**32 - 1))
        sound = np.random.default_rng(seed).bytes(num_values * SAMPLE_BYTES[encoding])
    channel = data.draw(st.none() | st.integers(0, channels - 1))
    format = RawFormat(encoding, rate, channels)
    borders = [min(cut, len(sound)) for cut in cuts]
    whole = take_in(RawIntake(format, channel=channel, target_rate=16_000), sound)
    pieces = take_in(RawIntake(format, channel=channel, target_rate=16_000), sound, borders)
    np.testing.assert_array_equal(pieces, whole)


@RELAXED
@given(encoding=ENCODING, channels=st.integers(1, 8), data=st.binary(max_size=2_000), cuts=CUTS)
def test_any_bytes_are_samples_within_the_range_or_a_documented_error(
    encoding: Encoding, channels: int, data: bytes, cuts: list[int]
) -> None:
    decoder = PcmDecoder(RawFormat(encoding, 16_000, channels), channel=None)
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    try:
        samples = [decoder.push(data[start:end]) for start, end in itertools.pairwise(borders)]
    except UndecodableAudio:
        assert encoding == "f32le"
    else:
        assert sum(len(piece) for piece in samples) == len(data) // (SAMPLE_BYTES[encoding] * channels)
        assert all(np.isfinite(piece).all() and (np.abs(piece) <= 8).all() for piece in samples)


@RELAXED
@given(rate=st.integers(4_000, 192_000), seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 9_999), max_size=20))
def test_resampled_sound_has_its_length_and_does_not_depend_on_the_pieces(rate: int, seed: int, cuts: list[int]) -> None:
    sound = noise(10_000 / rate, rate, amplitude=0.5, seed=seed)
    whole = Resampler(rate, 16_000)
    expected = np.concatenate([whole.push(sound), whole.finish()])
    cut = Resampler(rate, 16_000)
    pieces = [cut.push(piece) for piece in np.split(sound, sorted(cuts))]
    np.testing.assert_array_equal(np.concatenate([*pieces, cut.finish()]), expected)
    assert abs(len(expected) - len(sound) * 16_000 / rate) <= 1


@pytest.mark.parametrize("sound", SOUNDS, ids=IDS)
@settings(RELAXED, max_examples=15)
@given(cuts=CUTS)
def test_a_container_stream_gives_the_samples_of_its_file_however_it_is_cut(sound: bytes, cuts: list[int]) -> None:
    borders = [min(cut, len(sound)) for cut in cuts]
    np.testing.assert_array_equal(stream_samples(sound, borders), samples_of_file(sound))


@pytest.mark.parametrize("sound", SOUNDS, ids=IDS)
@settings(RELAXED, max_examples=15)
@given(share=st.floats(0, 1), cuts=CUTS)
def test_a_stream_that_breaks_off_gives_the_samples_of_the_broken_file(sound: bytes, share: float, cuts: list[int]) -> None:
    broken = sound[: round(share * len(sound))]
    try:
        expected = samples_of_file(broken)
    except (UnsupportedAudio, UndecodableAudio):
        expected = np.zeros(0, np.int16)
    try:
        heard = stream_samples(broken, [min(cut, len(broken)) for cut in cuts])
    except (UnsupportedAudio, UndecodableAudio):
        heard = np.zeros(0, np.int16)
    np.testing.assert_array_equal(heard, expected)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound with bytes changed, left out or put in, mostly where the header is."""
    sound = bytearray(draw(st.sampled_from(SOUNDS)))
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, 200) | st.integers(0, len(sound)))
        end = place + draw(st.integers(0, 8) | st.integers(0, 3_000))
        sound[place:end] = draw(st.binary(max_size=8))
    return bytes(sound)


@settings(RELAXED, max_examples=150)
@given(data=damaged() | st.binary(max_size=6_000), cuts=CUTS)
def test_any_bytes_give_samples_or_a_documented_error(data: bytes, cuts: list[int]) -> None:
    for run in (lambda: samples_of_file(data), lambda: stream_samples(data, [min(cut, len(data)) for cut in cuts])):
        with contextlib.suppress(UndecodableAudio, UnsupportedAudio):
            assert run().dtype == np.int16


@RELAXED
@given(sound=st.sampled_from(SOUNDS), tag=st.integers(0, 3_000), cuts=CUTS)
def test_a_container_is_recognised_however_its_start_is_cut(sound: bytes, tag: int, cuts: list[int]) -> None:
    data = b"ID3\x04\0\0\0\0" + bytes([tag >> 7, tag & 127]) + bytes(tag) + sound
    recogniser = Recogniser()
    borders = [0, *sorted(cuts), len(data)]
    answers = [recogniser.push(data[start:end]) for start, end in itertools.pairwise(borders)]
    assert answers[-1] == recogniser.finish() == sniff(sound)
    assert recogniser.offset == tag + 10
    assert bytes(recogniser.head) == sound


@RELAXED
@given(head=st.binary(max_size=600), length=st.integers(0, 600))
def test_what_the_start_says_no_later_byte_changes(head: bytes, length: int) -> None:
    early = sniff_start(head[:length])
    assert early is None or early == sniff_start(head)


@RELAXED
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_the_place_of_an_index_does_not_depend_on_the_cutting(data: bytes, cuts: list[int]) -> None:
    whole, cut = IndexScanner(), IndexScanner()
    whole.push(data)
    borders = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    for start, end in itertools.pairwise(borders):
        cut.push(data[start:end])
    assert cut.place == whole.place
