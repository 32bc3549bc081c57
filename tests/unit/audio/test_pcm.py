from __future__ import annotations

import numpy as np
import pytest

from service.audio.formats import RawFormat
from service.audio.pcm import MAX_AMPLITUDE, MonoMixer, PcmDecoder, decode_samples
from service.errors import CutSample, InvalidParameter, UndecodableAudio


def decoder(encoding: str = "s16le", channels: int = 1, channel: int | None = None) -> PcmDecoder:
    return PcmDecoder(RawFormat(encoding, 16_000, channels), channel=channel)  # type: ignore[arg-type]


def test_integers_are_scaled_to_full_scale() -> None:
    s16 = np.array([-32768, -1, 0, 16384, 32767], "<i2")
    np.testing.assert_array_equal(decode_samples("s16le", s16.tobytes()), s16 / 32768)
    s32 = np.array([-(2**31), 0, 2**30], "<i4")
    np.testing.assert_array_equal(decode_samples("s32le", s32.tobytes()), [-1.0, 0.0, 0.5])


def test_floats_are_taken_as_they_are() -> None:
    floats = np.array([-1.5, 0.25, 1.0], "<f4")
    np.testing.assert_array_equal(decode_samples("f32le", floats.tobytes()), floats)


def test_g711_follows_the_tables_of_the_standard() -> None:
    mulaw = decode_samples("mulaw", bytes([0x00, 0x7F, 0x80, 0xFF, 0xF0])) * 32768
    np.testing.assert_array_equal(mulaw, [-32124, 0, 32124, 0, 120])
    alaw = decode_samples("alaw", bytes([0x55, 0xD5, 0x2A, 0xAA, 0x45])) * 32768
    np.testing.assert_array_equal(alaw, [-8, 8, -32256, 32256, -264])


def test_a_sample_cut_in_two_is_put_together() -> None:
    samples = np.array([1000, -2000, 3000], "<i2").tobytes()
    pcm = decoder()
    pieces = [pcm.push(samples[start : start + 1]) for start in range(len(samples))]
    np.testing.assert_array_equal(np.concatenate(pieces) * 32768, [1000, -2000, 3000])
    pcm.finish()


def test_bytes_may_come_as_a_view() -> None:
    np.testing.assert_array_equal(decoder().push(memoryview(b"\0\x40")), [0.5])


def test_a_stream_that_ends_inside_a_sample_says_so_after_what_was_whole() -> None:
    pcm = decoder(channels=2)
    assert len(pcm.push(b"\0\0\0\0\0\0\0")) == 1
    with pytest.raises(CutSample, match="3 bytes into a frame of 4"):
        pcm.finish()


def test_channels_become_their_mean_or_the_picked_one() -> None:
    frames = np.array([[8192, -8192], [16384, 0]], "<i2").tobytes()
    np.testing.assert_array_equal(decoder(channels=2).push(frames), [0.0, 0.25])
    np.testing.assert_array_equal(decoder(channels=2, channel=0).push(frames), [0.25, 0.5])
    np.testing.assert_array_equal(decoder(channels=2, channel=1).push(frames), [-0.25, 0.0])


@pytest.mark.parametrize("channel", [2, -1])
def test_a_channel_that_is_not_there_is_refused_at_once(channel: int) -> None:
    with pytest.raises(InvalidParameter, match="the sound has 2: allowed is 0 to 1") as caught:
        decoder(channels=2, channel=channel)
    assert caught.value.param == "channel"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_named_by_its_place_in_the_stream(bad: float) -> None:
    pcm = decoder("f32le")
    pcm.push(np.zeros(10, "<f4").tobytes())
    with pytest.raises(UndecodableAudio, match=rf"sample 12 is {bad}"):
        pcm.push(np.array([0, 0, bad, bad], "<f4").tobytes())


def test_both_infinities_and_signalling_nans_are_refused_without_a_warning() -> None:
    with pytest.raises(UndecodableAudio, match="sample 0 is nan"):
        decoder("f32le", channels=2).push(np.array([np.inf, -np.inf], "<f4").tobytes())
    with pytest.raises(UndecodableAudio, match="sample 0 is nan"):
        decoder("f32le").push(b"\x01\x00\x80\x7f")


def test_a_channel_that_is_not_picked_may_hold_anything() -> None:
    frames = np.array([0.5, np.nan], "<f4").tobytes()
    np.testing.assert_array_equal(decoder("f32le", channels=2, channel=0).push(frames), [0.5])


def test_huge_finite_floats_are_clipped_and_do_not_overflow_the_mean() -> None:
    huge = np.finfo(np.float32).max
    mixed = decoder("f32le", channels=8).push(np.full(8, huge, "<f4").tobytes())
    np.testing.assert_array_equal(mixed, [MAX_AMPLITUDE])
    cancelled = decoder("f32le", channels=2).push(np.array([huge, -huge], "<f4").tobytes())
    np.testing.assert_array_equal(cancelled, [0.0])


def test_the_mean_does_not_depend_on_the_layout_in_memory() -> None:
    frames = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    rows = MonoMixer(None).mix(frames)
    planes = MonoMixer(None).mix(np.asfortranarray(frames))
    np.testing.assert_array_equal(rows, planes)


def test_nothing_in_is_nothing_out() -> None:
    assert decoder(channels=8).push(b"").shape == (0,)
