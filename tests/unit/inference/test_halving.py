from __future__ import annotations

import numpy as np
import pytest

from service.inference.halving import is_out_of_memory, run_in_halves
from service.inference.runner import Int16Array, Int64Array, ModelOutput
from tests.support.runners import OUT_OF_MEMORY, FakeRunner, level

TOO_MUCH = RuntimeError(OUT_OF_MEMORY)


class SmallRunner(FakeRunner):
    """A model with memory for so many windows at once."""

    def __init__(self, room: int) -> None:
        super().__init__(batch_sizes=(1, 2, 4, 8))
        self.room = room
        self.sizes: list[int] = []

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        self.sizes.append(len(lengths))
        if len(lengths) > self.room:
            raise TOO_MUCH
        return super().run(waveform, lengths, embedding=embedding)


def batch(num_windows: int) -> tuple[Int16Array, Int64Array]:
    waveform = np.stack([level(row % 4, 16_000) for row in range(num_windows)])
    return waveform, np.arange(num_windows, dtype=np.int64) * 100 + 1000


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("embedding", [True, False])
def test_a_batch_that_does_not_fit_gives_what_one_that_fits_gives(room: int, embedding: bool) -> None:
    waveform, lengths = batch(7)
    expected = FakeRunner(batch_sizes=(8,)).run(waveform, lengths, embedding=embedding)
    output = run_in_halves(SmallRunner(room), waveform, lengths, embedding=embedding)
    assert np.array_equal(output.logits, expected.logits)
    assert np.array_equal(output.scores, expected.scores)
    if embedding:
        assert output.embedding is not None
        assert np.array_equal(output.embedding, expected.embedding)  # type: ignore[arg-type]
    else:
        assert output.embedding is None


def test_halves_go_down_to_single_windows_and_no_further() -> None:
    runner = SmallRunner(1)
    run_in_halves(runner, *batch(4), embedding=False)
    assert runner.sizes == [4, 2, 1, 1, 2, 1, 1]
    runner.room, runner.sizes = 0, []
    with pytest.raises(RuntimeError, match="Failed to allocate"):
        run_in_halves(runner, *batch(4), embedding=False)
    assert runner.sizes == [4, 2, 1], "where one window does not fit the others are not tried"


def test_another_failure_is_not_tried_again() -> None:
    runner = FakeRunner(failures=[RuntimeError("the shape does not fit")])
    with pytest.raises(RuntimeError, match="shape"):
        run_in_halves(runner, *batch(4), embedding=False)
    assert len(runner.calls) == 1


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (TOO_MUCH, True),
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), True),
        (RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA failure 700: an illegal memory access was encountered"), False),
        (ValueError("the model gave 3 rows for 4 windows"), False),
    ],
)
def test_want_of_memory_is_told_from_other_failures(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) == is_memory
