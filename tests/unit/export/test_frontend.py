import warnings

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from export.frontend import Features, LogMel, mel_filters
from export.signals import Signal, check_signals, read_speech, stack

MAX_LENGTH = 128
WINDOW = 400 + 160 * (MAX_LENGTH - 1)


@pytest.fixture(scope="module")
def frontend() -> LogMel:
    return LogMel(128, MAX_LENGTH, Features()).eval()


def run(frontend: LogMel, *signals: Signal, rest: np.ndarray | None = None) -> np.ndarray:
    batch = stack(signals, WINDOW, rest=rest)
    return frontend(torch.from_numpy(batch.waveform), torch.from_numpy(batch.lengths)).numpy()


def extract(samples: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        extractor = ASTFeatureExtractor(max_length=MAX_LENGTH)
    return np.asarray(extractor(samples.astype(np.float32) / 32_768, sampling_rate=16_000)["input_values"][0])


def test_the_mel_filters_are_kaldis_with_number_three_empty() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter")
        theirs = mel_filter_bank(257, 128, 20, 8000, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True)
    ours = mel_filters(128)
    assert np.abs(ours - theirs[:256]).max() < 1e-12
    assert np.flatnonzero(ours.sum(axis=0) == 0).tolist() == [3]
    assert theirs[256].max() < 1e-12, "the Nyquist bin has no weight, so it may be left out"


@pytest.mark.parametrize("signal", check_signals(WINDOW), ids=lambda signal: signal.name)
def test_features_are_those_of_transformers(frontend: LogMel, signal: Signal) -> None:
    assert np.abs(run(frontend, signal)[0] - extract(signal.samples)).max() < 3e-4


@pytest.mark.parametrize("offset", [-31_000, 20_000, 31_000])
def test_a_large_offset_does_not_drown_a_quiet_sound(frontend: LogMel, offset: int) -> None:
    quiet = (read_speech()[:WINDOW] // 100 + offset).astype(np.int16)
    assert np.abs(run(frontend, Signal("quiet", quiet))[0] - extract(quiet)).max() < 1e-4


def test_a_padded_frame_is_zero_before_normalising_and_silence_is_not(frontend: LogMel) -> None:
    features = run(frontend, Signal("silence", np.zeros(400 + 160 * 9, np.int16)))[0]
    assert features[:10] == pytest.approx(-1.2776, abs=1e-3)
    assert features[10:] == pytest.approx(0.46703, abs=1e-4)


@pytest.mark.parametrize(
    ("length", "frames"), [(400, 1), (559, 1), (560, 2), (WINDOW - 1, MAX_LENGTH - 1), (WINDOW, MAX_LENGTH)]
)
def test_only_frames_that_fit_count(frontend: LogMel, length: int, frames: int) -> None:
    features = run(frontend, Signal("speech", np.resize(read_speech(), length)))[0]
    padded = np.isclose(features, 0.46703, atol=1e-5).all(axis=1)
    assert padded.tolist() == [False] * frames + [True] * (MAX_LENGTH - frames)


def test_what_lies_past_an_items_end_does_not_matter(frontend: LogMel) -> None:
    noise = np.random.default_rng(0).integers(-32_768, 32_768, WINDOW).astype(np.int16)
    short, long = Signal("short", read_speech()[8_000:10_000]), Signal("long", read_speech()[:WINDOW])
    together = run(frontend, short, long, rest=noise)
    assert np.abs(together[0] - run(frontend, short)[0]).max() < 1e-5
    assert np.abs(together[1] - run(frontend, long)[0]).max() < 1e-5
