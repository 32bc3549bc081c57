import numpy as np
import pytest

from export.signals import Signal, check_signals, golden_signals, read_speech, repeat, stack


def test_the_speech_that_ships_is_five_seconds_of_sound() -> None:
    speech = read_speech()
    assert speech.dtype == np.int16
    assert 4 * 16_000 < len(speech) < 6 * 16_000
    assert 10_000 < np.abs(speech.astype(int)).max() < 32_767


@pytest.mark.parametrize("window_samples", [2_800, 20_720, 82_160, 164_080])
def test_the_signals_fit_any_window(window_samples: int) -> None:
    signals = {signal.name: signal.samples for signal in check_signals(window_samples)}
    assert list(signals) == ["speech", "DC offset", "silence", "full-scale square", "1-LSB noise", "0.1 s", "over-long"]
    assert len(signals["0.1 s"]) == 1_600
    assert len(signals["over-long"]) > window_samples
    assert np.abs(signals["1-LSB noise"]).max() == 1
    assert set(np.unique(signals["full-scale square"])) == {-32_768, 32_767}
    assert abs(signals["DC offset"].mean()) > 10_000
    golden = stack(golden_signals(window_samples), window_samples)
    assert golden.waveform.shape == (4, window_samples)
    assert golden.lengths.min() >= 400
    assert golden.lengths.max() == window_samples


def test_rows_hold_a_signal_and_then_what_was_asked_for() -> None:
    batch = stack((Signal("a", np.full(500, 7, np.int16)), Signal("b", np.full(900, 8, np.int16))), 600)
    assert batch.lengths.tolist() == [500, 600]
    assert batch.waveform[0].tolist() == [7] * 500 + [0] * 100
    assert batch.waveform[1].tolist() == [8] * 600
    noisy = stack((Signal("a", np.full(500, 7, np.int16)),), 600, rest=np.full(600, 5, np.int16))
    assert noisy.waveform[0].tolist() == [7] * 500 + [5] * 100


def test_less_than_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter than one frame"):
        stack((Signal("a", np.zeros(399, np.int16)),), 600)


def test_a_sound_is_repeated_as_often_as_it_takes() -> None:
    assert repeat(np.array([1, 2, 3], np.int16), 7).tolist() == [1, 2, 3, 1, 2, 3, 1]
