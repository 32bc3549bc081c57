from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ProviderError
from service.inference.bundle import open_bundle
from service.inference.onnx_runner import OnnxRunner, _translate
from service.inference.providers import choose_provider, find_obstacle, has_nvidia_device
from service.inference.tensorrt import cache_folder, engine_options, order_shapes
from service.settings import EMBEDDED_BUNDLE


def test_engines_are_kept_where_it_was_said_or_in_the_users_cache(tmp_path: Path) -> None:
    assert cache_folder(tmp_path, {"XDG_CACHE_HOME": "/elsewhere"}) == tmp_path
    assert cache_folder(None, {"XDG_CACHE_HOME": "/elsewhere"}) == Path("/elsewhere/sonotag/tensorrt")
    home = cache_folder(None, {})
    assert home.is_absolute()
    assert cache_folder(None, {"XDG_CACHE_HOME": "relative"}) == home


def test_engines_are_named_after_their_model_and_precision(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    options = engine_options(folder, "ab" * 32, "fp16")
    assert folder.is_dir()
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    assert options["trt_engine_cache_prefix"] == "ab" * 8 + "-fp16"
    assert options["trt_fp16_enable"] == "1"
    full = engine_options(folder, "ab" * 32, "fp32")
    assert full["trt_fp16_enable"] == "0"
    assert full["trt_engine_cache_prefix"] != options["trt_engine_cache_prefix"]


def test_no_profile_is_asked_for_since_it_would_have_to_name_tensors_inside_of_the_graph(tmp_path: Path) -> None:
    """What TensorRT gets of our graphs begins behind `waveform`, whose type it does not have: its inputs are other tensors."""
    assert not [name for name in engine_options(tmp_path, "ab" * 32, "fp16") if "profile" in name]


def test_the_first_two_shapes_that_run_enclose_all_others() -> None:
    order = order_shapes((800, 1600, 3200), (1, 2, 8))
    assert order[:2] == [(3200, 8), (800, 1)]
    assert sorted(order) == sorted((length, size) for length in (800, 1600, 3200) for size in (1, 2, 8))
    assert order_shapes((1600,), (1,)) == [(1600, 1)]


def test_what_tensorrt_cannot_compile_says_what_does_without_it() -> None:
    error = _translate(open_bundle(EMBEDDED_BUNDLE.folder), "fp16", "tensorrt", RuntimeError("no engine"))
    assert str(error).endswith(
        "cannot run model.fp16.onnx on tensorrt: no engine (SONOTAG_PROVIDER is tensorrt; cuda does without it)"
    )


def test_a_bundle_lists_for_tensorrt_what_it_lists_for_cuda() -> None:
    bundle = open_bundle(EMBEDDED_BUNDLE.folder)
    assert bundle.choose_precision("tensorrt", "auto") == bundle.choose_precision("cuda", "auto")


@pytest.mark.skipif(has_nvidia_device(), reason="this machine has an NVIDIA device")
def test_tensorrt_that_cannot_be_had_stops_the_start_and_says_why() -> None:
    assert find_obstacle("tensorrt")
    with pytest.raises(ProviderError, match=r"TensorRT cannot be had.*SONOTAG_PROVIDER is tensorrt"):
        choose_provider("tensorrt")
    with pytest.raises(ProviderError, match="TensorRT cannot be had"):
        OnnxRunner.open(open_bundle(EMBEDDED_BUNDLE.folder), provider="tensorrt")
