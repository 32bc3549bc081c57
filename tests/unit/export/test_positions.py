import pytest
import torch

from export.positions import resize_frequency, resize_positions, resize_time, to_grid, to_rows


def test_a_shorter_time_axis_is_the_middle_of_the_longer_one() -> None:
    grid = torch.arange(101.0).expand(1, 3, 12, 101)
    for size in (1, 12, 50, 51, 100, 101):
        start = 50 - size // 2
        assert torch.equal(resize_time(grid, size)[0, 0, 0], torch.arange(start, start + size, dtype=torch.float32))


def test_a_longer_time_axis_is_interpolated_bilinearly_and_frequency_stays() -> None:
    grid = torch.randn(1, 4, 12, 101, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(grid, size=(12, 150), mode="bilinear")
    assert torch.equal(resize_time(grid, 150), expected)
    rising = torch.arange(8.0).reshape(1, 1, 8, 1).expand(1, 1, 8, 10)
    assert torch.allclose(resize_time(rising, 25)[0, 0, :, 7], torch.arange(8.0))


def test_frequency_is_resized_as_time_is() -> None:
    grid = torch.randn(1, 4, 14, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_frequency(grid, 12), grid[:, :, 1:13])
    longer = torch.nn.functional.interpolate(grid, size=(20, 9), mode="bilinear")
    assert torch.allclose(resize_frequency(grid, 20), longer, atol=1e-6)


def test_rows_and_grid_are_each_others_inverse() -> None:
    rows = torch.randn(1, 12, 5)
    assert torch.equal(to_rows(to_grid(rows, (3, 4))), rows)
    assert torch.equal(to_grid(rows, (3, 4))[0, :, 2, 1], rows[0, 2 * 4 + 1])


@pytest.mark.parametrize("time", [3, 6, 9])
def test_the_rows_of_the_special_tokens_stay(time: int) -> None:
    positions = torch.randn(1, 2 + 4 * 6, 5).half()
    resized = resize_positions(positions, (4, 6), time)
    assert resized.shape == (1, 2 + 4 * time, 5)
    assert resized.dtype == torch.float16
    assert torch.equal(resized[:, :2], positions[:, :2])
