from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from service.inference.bound_run import BoundSession
from service.inference.bundle import Bundle, Golden, open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.runner import ModelOutput
from tests.support.bundles import NUM_SAMPLES, reference, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_bundle(tmp_path))


@pytest.fixture
def bound(bundle: Bundle) -> BoundSession:
    """IO binding on the CPU provider: the same calls as on a GPU, with buffers in host memory."""
    runner = OnnxRunner.open(bundle, provider="cpu", num_threads=1)
    assert runner._session is not None
    return BoundSession(runner._session, dataclasses.replace(runner.spec, batch_sizes=(1, 2)), "cpu")


def clips(count: int, seed: int = 0) -> Golden:
    rng = np.random.default_rng(seed)
    waveform = rng.integers(-30_000, 30_000, (count, NUM_SAMPLES), np.int16)
    lengths = rng.integers(400, NUM_SAMPLES, count, dtype=np.int64)
    return Golden(waveform, lengths, reference(waveform, lengths, "sigmoid")[2])


def run(bound: BoundSession, batch: Golden, *, embedding: bool = False) -> ModelOutput:
    return bound.run(batch.waveform, batch.lengths, embedding=embedding)


def test_batches_of_changing_sizes_each_get_their_own_scores(bound: BoundSession) -> None:
    for seed, count in enumerate([1, 2, 1, 2, 2, 1]):
        batch = clips(count, seed)
        output = run(bound, batch)
        assert output.logits.shape == output.scores.shape == batch.scores.shape
        assert output.embedding is None
        np.testing.assert_allclose(output.scores, batch.scores, atol=1e-5)


def test_what_was_returned_is_not_overwritten_by_the_next_run(bound: BoundSession) -> None:
    first, second = clips(2, 1), clips(2, 2)
    output = run(bound, first, embedding=True)
    assert output.embedding is not None
    kept = [array.copy() for array in (output.logits, output.scores, output.embedding)]
    run(bound, second, embedding=True)
    for array, copy in zip((output.logits, output.scores, output.embedding), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_a_batch_between_two_sizes_is_padded_and_cut(bundle: Bundle) -> None:
    runner = OnnxRunner.open(bundle, provider="cpu", num_threads=1)
    assert runner._session is not None
    bound = BoundSession(runner._session, dataclasses.replace(runner.spec, batch_sizes=(1, 4)), "cpu")
    batch = clips(3)
    output = run(bound, batch, embedding=True)
    np.testing.assert_allclose(output.scores, batch.scores, atol=1e-5)
    assert output.embedding is not None
    assert len(output.embedding) == len(output.logits) == 3
    with pytest.raises(ValueError, match=r"5 windows, model .* takes 4 at most"):
        run(bound, clips(5))
