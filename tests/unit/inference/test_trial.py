from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from service.errors import BundleError
from service.inference.bundle import Bundle, open_bundle
from service.inference.catalog import open_catalog
from service.inference.trial import BASE_BYTES, default_memory_bytes, is_shipped, try_graph
from service.observer import NullObserver
from service.settings import EMBEDDED_BUNDLE, Settings
from tests.support.bundles import build_model, write_bundle
from tests.support.greedy_graphs import (
    with_endless_loop,
    with_huge_constant,
    with_huge_tensor_when_run,
    with_many_tensors_when_run,
)


def opened(folder: Path, model: onnx.ModelProto) -> Bundle:
    return open_bundle(write_bundle(folder / "b", model=model))


def test_a_graph_that_takes_little_passes(tmp_path: Path) -> None:
    try_graph(opened(tmp_path, build_model()), "fp32")


@pytest.mark.parametrize("make", [with_huge_constant, with_huge_tensor_when_run, with_many_tensors_when_run])
def test_a_graph_that_takes_more_memory_than_it_may_is_refused(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'linear': model\.fp32\.onnx takes more memory .* \(SONOTAG_MODEL_MEMORY_BYTES\): "):
        try_graph(opened(tmp_path, make()), "fp32")


def test_the_same_graph_passes_where_the_setting_lets_it(tmp_path: Path) -> None:
    try_graph(opened(tmp_path, with_many_tensors_when_run()), "fp32", memory_bytes=8 * 1024**3)


def test_a_graph_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"takes more than 1 s to load and run once"):
        try_graph(opened(tmp_path, with_endless_loop()), "fp32", cpu_seconds=1)


def test_a_graph_that_onnxruntime_cannot_run_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot be run by onnxruntime: .*Gather"):
        try_graph(opened(tmp_path, build_model(fails_when_run=True)), "fp32")


def test_a_catalog_does_not_load_a_graph_that_fails_its_trial(tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", model=with_many_tensors_when_run())
    settings = Settings(provider="cpu", bundles=f"greedy={tmp_path / 'b'}")
    with pytest.raises(BundleError, match="SONOTAG_MODEL_MEMORY_BYTES"):
        open_catalog(dict(settings.bundles), settings, NullObserver())


def test_what_a_trial_may_take_follows_from_the_size_of_the_files_of_the_graph() -> None:
    bundle = open_bundle(EMBEDDED_BUNDLE.folder)
    size = sum((bundle.folder / name).stat().st_size for name in ("model.int8.onnx", "weights.bin"))
    assert default_memory_bytes(bundle, "int8") == BASE_BYTES + 4 * size


def test_the_embedded_bundle_needs_no_trial_and_a_copy_of_it_does(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(EMBEDDED_BUNDLE.folder)
    assert is_shipped(EMBEDDED_BUNDLE.folder)
    assert is_shipped(tmp_path / "link")
    assert not is_shipped(tmp_path)
    assert not is_shipped(EMBEDDED_BUNDLE.folder.parent / "..")
