import pytest
import safetensors

from export.architecture import Architecture, expected_shapes, frames_to_samples, seconds_to_frames
from tests.support.shared import REPOSITORY


def make_base(max_length: int = 1024, stride: int = 10) -> Architecture:
    return Architecture(768, 12, 12, 3072, 16, stride, stride, 128, max_length, 527)


def test_base_has_1214_tokens_and_its_published_number_of_parameters() -> None:
    base = make_base()
    num_parameters = sum(_product(shape) for shape in expected_shapes(base).values())
    assert base.grid == (12, 101)
    assert base.num_tokens == 1214
    assert base.num_encoder_weights == 84_934_656
    assert 86.5e6 < num_parameters < 86.7e6


@pytest.mark.parametrize(("stride", "patches"), [(10, 1212), (12, 850), (14, 657), (16, 512)])
def test_every_stride_of_the_seed_family_has_its_number_of_patches(stride: int, patches: int) -> None:
    assert make_base(stride=stride).num_tokens == patches + 2


def test_1024_frames_take_164080_samples() -> None:
    assert make_base().window_samples == 164_080
    assert frames_to_samples(1) == 400


@pytest.mark.parametrize(("seconds", "frames"), [(0.01, 1), (0.025, 1), (0.026, 2), (1.0, 99), (5.135, 512), (10.255, 1024)])
def test_a_window_is_rounded_up_to_whole_frames(seconds: float, frames: int) -> None:
    assert seconds_to_frames(seconds) == frames
    assert frames_to_samples(frames) >= round(seconds * 16_000)


def test_the_expected_tensors_are_those_of_a_real_checkpoint() -> None:
    tiny = Architecture(192, 12, 3, 768, 16, 16, 16, 128, 512, 521)
    path = REPOSITORY / "export" / "checkpoints" / "ast-tiny-16-16-5s" / "model.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        assert {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()} == expected_shapes(tiny)  # noqa: SIM118


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
