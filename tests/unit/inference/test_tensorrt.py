from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ProviderError
from service.inference.bundle import open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import choose_provider, find_obstacle, has_nvidia_device
from service.inference.tensorrt import cache_folder, engine_options
from service.settings import EMBEDDED_BUNDLE


def test_engines_are_kept_where_it_was_said_or_in_the_users_cache(tmp_path: Path) -> None:
    assert cache_folder(tmp_path, {"XDG_CACHE_HOME": "/elsewhere"}) == tmp_path
    assert cache_folder(None, {"XDG_CACHE_HOME": "/elsewhere"}) == Path("/elsewhere/sonotag/tensorrt")
    home = cache_folder(None, {})
    assert home.is_absolute()
    assert cache_folder(None, {"XDG_CACHE_HOME": "relative"}) == home


def test_one_engine_covers_every_batch_and_length_and_is_named_after_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    options = engine_options(folder, "ab" * 32, "fp16", min_samples=400, window_samples=16_000, max_batch_size=32)
    assert folder.is_dir()
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    assert options["trt_engine_cache_prefix"] == "ab" * 8 + "-fp16"
    assert options["trt_profile_min_shapes"] == "waveform:1x400,lengths:1"
    assert options["trt_profile_max_shapes"] == "waveform:32x16000,lengths:32"
    assert options["trt_fp16_enable"] == "1"
    full = engine_options(folder, "ab" * 32, "fp32", min_samples=400, window_samples=16_000, max_batch_size=32)
    assert full["trt_fp16_enable"] == "0"
    assert full["trt_engine_cache_prefix"] != options["trt_engine_cache_prefix"]


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
