from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from service.inference.runner import Int16Array
from service.inference.staging import Staging
from tests.support.runners import make_spec


@dataclass(frozen=True, eq=False)
class Window:
    waveform: Int16Array
    batch_samples: int = 16_000


def window(mark: int, num_samples: int = 500, batch_samples: int = 16_000) -> Window:
    return Window(np.full(num_samples, mark, np.int16), batch_samples)


def staging(provider: str = "cpu", max_batch_size: int = 4) -> Staging[Window]:
    return Staging(make_spec(provider=provider, batch_sizes=(1, 2, 4, 8)), max_batch_size)  # type: ignore[arg-type]


def check(buffers: Staging[Window], windows: list[Window]) -> None:
    batch = buffers.hand_over(windows)
    buffers.take_back(batch)
    assert set(batch.windows) == set(windows)
    for row, held in enumerate(batch.windows):
        assert batch.lengths[row] == len(held.waveform)
        np.testing.assert_array_equal(batch.waveform[row, : len(held.waveform)], held.waveform)
        assert not batch.waveform[row, len(held.waveform) :].any()


def test_windows_that_were_staged_and_windows_that_were_not_make_one_batch() -> None:
    buffers = staging()
    windows = [window(i, 400 + i) for i in range(1, 6)]
    for staged in windows[:3]:
        buffers.stage(staged)
    check(buffers, [windows[4], windows[1], windows[2]])
    check(buffers, windows[3:])
    check(buffers, windows[:4])


def test_a_batch_is_as_long_as_its_windows_may_be() -> None:
    buffers = staging()
    short = [window(i, 700 + i, 1_000) for i in range(1, 4)]
    long = [window(i, 1_200 + i) for i in range(4, 7)]
    for staged in (short[0], long[0], short[1], long[1]):
        buffers.stage(staged)
    batch = buffers.hand_over(short)
    assert batch.waveform.shape == (3, 1_000)
    assert batch.waveform.flags.c_contiguous
    assert batch.waveform[:, 700].tolist() == [1, 2, 3]
    buffers.take_back(batch)
    for staged in (short[0], long[0], long[1]):
        buffers.stage(staged)
    check(buffers, long)  # not of the length that was copied ahead
    check(buffers, short)


def test_a_staged_window_is_not_copied_twice() -> None:
    buffers = staging()
    first = window(7)
    buffers.stage(first)
    first.waveform[:] = 8
    buffers.stage(first)
    assert buffers.hand_over([first]).waveform[0, 0] == 7


def test_a_row_that_was_freed_is_used_again() -> None:
    buffers = staging(max_batch_size=2)
    a, b, c, d = (window(i) for i in range(1, 5))
    for staged in (a, b, c):
        buffers.stage(staged)
    buffers.unstage(c)
    buffers.unstage(a)
    buffers.stage(d)
    d.waveform[:] = 99
    batch = buffers.hand_over([b, d])
    assert batch.windows == (d, b)
    assert batch.waveform[:, 0].tolist() == [4, 2]


def test_the_buffer_with_the_runner_is_left_alone_while_the_next_is_filled() -> None:
    buffers = staging()
    batch = buffers.hand_over([window(1)])
    for i in range(2, 6):
        buffers.stage(window(i))
    assert batch.waveform[0, 0] == 1
    assert batch.lengths.tolist() == [500]


def test_each_lane_has_a_buffer_and_one_is_left_to_fill_in_whatever_order_they_come_back() -> None:
    buffers = Staging[Window](make_spec(num_lanes=2), 4)
    slow, quick = buffers.hand_over([window(1)]), buffers.hand_over([window(2)])
    for mark in range(3, 9):
        buffers.take_back(quick)
        quick = buffers.hand_over([window(mark)])
        assert quick.waveform[0, 0] == mark
    buffers.stage(window(9))
    assert slow.waveform[0, 0] == 1


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_batches_on_a_gpu_are_padded_with_valid_lengths(provider: str) -> None:
    buffers = staging(provider, max_batch_size=3)
    buffers.take_back(buffers.hand_over([window(i, 16_000) for i in range(3)]))
    buffers.take_back(buffers.hand_over([window(1, 16_000)]))
    batch = buffers.hand_over([window(i, 900) for i in range(3)])
    assert batch.waveform.shape == (4, 16_000)
    assert batch.lengths.tolist() == [900, 900, 900, 400]


def test_a_cpu_runs_a_single_whole_window_where_it_is_and_a_padded_one_in_a_buffer() -> None:
    buffers = staging(max_batch_size=1)
    whole, short = window(1, 16_000), window(2, 500)
    buffers.stage(whole)
    batch = buffers.hand_over([whole])
    assert np.shares_memory(batch.waveform, whole.waveform)
    assert (batch.waveform.shape, batch.lengths.tolist()) == ((1, 16_000), [16_000])
    check(buffers, [short])
    buffers.take_back(batch)
    check(buffers, [short])
    check(buffers, [whole])


def test_a_gpu_has_also_a_single_window_in_its_own_buffer() -> None:
    buffers = staging("cuda", max_batch_size=1)
    whole = window(1, 16_000)
    assert not np.shares_memory(buffers.hand_over([whole]).waveform, whole.waveform)
