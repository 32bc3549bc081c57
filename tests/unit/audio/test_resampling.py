from __future__ import annotations

import numpy as np
import pytest

from service.audio.resampling import RateBridge, Resampler, to_int16
from service.errors import UndecodableAudio
from tests.support.sounds import loudest_hz, noise, tone


def test_equal_rates_pass_samples_through_unchanged() -> None:
    samples = np.arange(-32768, 32768, dtype=np.int16)
    resampler = Resampler(16_000, 16_000)
    np.testing.assert_array_equal(resampler.push(samples / np.float32(32768)), samples)
    assert len(resampler.finish()) == 0


def test_int16_is_rounded_half_to_even_and_clipped() -> None:
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32) / 32768
    np.testing.assert_array_equal(to_int16(halves), [0, 2, 2, 0, -2])
    np.testing.assert_array_equal(to_int16(np.array([1.0, -1.0, 8.0, -8.0], np.float32)), [32767, -32768, 32767, -32768])


def test_the_input_is_left_as_it_was() -> None:
    samples = np.array([0.1, 2.0], np.float32)
    to_int16(samples)
    np.testing.assert_array_equal(samples, np.array([0.1, 2.0], np.float32))


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_a_tone_keeps_its_pitch_its_level_and_its_length(rate: int) -> None:
    resampler = Resampler(rate, 16_000)
    samples = np.concatenate([resampler.push(tone(1.0, 440, rate)), resampler.finish()])
    assert len(samples) == 16_000
    assert loudest_hz(samples, 16_000) == pytest.approx(440, abs=0.5)
    assert np.abs(samples[4000:12000]).max() == pytest.approx(0.5 * 32768, rel=0.002)


def test_what_is_above_the_new_nyquist_frequency_is_gone() -> None:
    resampler = Resampler(48_000, 16_000)
    samples = np.concatenate([resampler.push(tone(1.0, 12_000, 48_000)), resampler.finish()])
    assert np.abs(samples[4000:12000]).max() <= 1


@pytest.mark.parametrize("rate", [8_000, 44_100, 44_101, 192_000])
def test_pieces_give_exactly_the_samples_of_the_whole(rate: int) -> None:
    sound = noise(1.0, rate)
    whole = Resampler(rate, 16_000)
    expected = np.concatenate([whole.push(sound), whole.finish()])
    cut = Resampler(rate, 16_000)
    pieces = [cut.push(piece) for piece in np.split(sound, [0, 1, 2, 3, 50, 51, 1000, 5000])]
    np.testing.assert_array_equal(np.concatenate([*pieces, cut.finish()]), expected)


def test_finish_gives_the_rest_once() -> None:
    resampler = Resampler(44_100, 16_000)
    resampler.push(noise(0.1, 44_100))
    assert len(resampler.finish()) > 0
    assert len(resampler.finish()) == 0


def test_nothing_in_is_nothing_out() -> None:
    resampler = Resampler(44_100, 16_000)
    assert len(resampler.push(np.zeros(0, np.float32))) == 0
    assert len(resampler.finish()) == 0


def test_a_bridge_passes_the_first_rate_through_and_brings_others_to_it() -> None:
    bridge = RateBridge(16_000)
    first = noise(0.5, 16_000)
    np.testing.assert_array_equal(bridge.push(first, 16_000), first)
    pieces = [bridge.push(tone(1.0, 440, 8_000)[start : start + 1000], 8_000) for start in range(0, 8_000, 1000)]
    pieces.append(bridge.push(tone(1.0, 440, 48_000), 48_000))
    pieces.append(bridge.push(first, 16_000))
    bridged = np.concatenate(pieces)
    np.testing.assert_array_equal(bridged[-8_000:], first)
    assert len(bridged) == 2 * 16_000 + 8_000
    assert loudest_hz(bridged[4_000:12_000], 16_000) == pytest.approx(440, abs=0.5)
    assert loudest_hz(bridged[20_000:28_000], 16_000) == pytest.approx(440, abs=0.5)
    assert len(bridge.finish()) == 0


def test_a_bridge_gives_its_rest_at_the_end() -> None:
    bridge = RateBridge(16_000)
    num_samples = len(bridge.push(tone(1.0, 440, 8_000), 8_000))
    assert num_samples + len(bridge.finish()) == 16_000
    assert len(bridge.finish()) == 0


@pytest.mark.parametrize("rate", [1, 3_999, 192_001])
def test_a_bridge_refuses_a_rate_out_of_range(rate: int) -> None:
    with pytest.raises(UndecodableAudio, match=f"changes from 16000 to {rate} Hz on the way"):
        RateBridge(16_000).push(np.zeros(10, np.float32), rate)
