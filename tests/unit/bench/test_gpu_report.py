"""What `bench.gpu` does with its measurements; `tests/bench/check_gpu.py` runs the whole of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.gpu import UNMEASURED, Rate, Results, Subject, count_flops, goals, measure, write_report
from service.inference.bundle import open_bundle

EMBEDDED = Path(__file__).resolve().parents[3] / "service" / "bundles" / "ast-tiny-16-16-5s"
BASE = {"hidden_size": 768, "num_heads": 12, "mlp_size": 3072, "frequency_stride": 10, "time_stride": 10, "max_length": 1024}


@pytest.fixture
def base() -> Subject:
    """The embedded bundle, with the numbers of base in its manifest."""
    bundle = open_bundle(EMBEDDED)
    architecture = bundle.manifest.architecture.model_copy(update=BASE)
    manifest = bundle.manifest.model_copy(update={"architecture": architecture})
    return Subject("cuda", "fp16", EMBEDDED, dataclasses.replace(bundle, manifest=manifest), (1, 32), 1.0)


def results(**rates: float) -> Results:
    return Results({name.replace("_", " "): Rate(rate, rate, rate) for name, rate in rates.items()})


def test_base_takes_262_gflop_a_window(base: Subject) -> None:
    assert count_flops(base.bundle) == pytest.approx(262e9, rel=0.005)


def test_a_goal_that_was_measured_has_its_ratio_and_the_rest_says_that_it_was_not(base: Subject) -> None:
    measured = results(
        plain_32=1000.0, graph_32=1100.0, transformers_32=1000.0, transformers_with_features_32=50.0, graph_1=900.0
    )
    measured.rates["matrix product, TFLOP/s"] = Rate(720.0, 700.0, 725.0)
    reached = [reached for _, _, reached in goals(base, measured, "base")]
    assert reached[:4] == ["1.10 times (graph 32)", UNMEASURED, "22.00 times (graph 32)", "0.40 (288 TFLOP/s)"]
    assert reached[4:] == [UNMEASURED] * 6


def test_nothing_but_base_on_a_gpu_counts(base: Subject) -> None:
    measured = results(plain_32=1000.0, transformers_32=500.0)
    for subject, size in ((base, "tiny"), (dataclasses.replace(base, device="cpu"), "base")):
        assert {reached for _, _, reached in goals(subject, measured, size)} == {UNMEASURED}


def test_one_measurement_that_fails_leaves_its_reason_and_the_others() -> None:
    measured = Results()
    with measured.attempt("kernels"):
        raise RuntimeError("no profiler here\nand much more")
    measured.rates["plain 1"] = measure(lambda: None, 1.0, 0.0)
    assert measured.notes == {"kernels": "RuntimeError: no profiler here"}
    assert measured.rates["plain 1"].least <= measured.rates["plain 1"].median <= measured.rates["plain 1"].most


def test_the_report_names_what_is_missing(base: Subject) -> None:
    report = write_report(dataclasses.replace(base, device="cpu"), results(plain_1=10.0), [("gemm", 1.5)], "tiny")
    assert "| plain | 10.0 (10.0 to 10.0) | unmeasured |" in report
    assert "| transformers | unmeasured | unmeasured |" in report
    assert "| `gemm` | 1.500 |" in report
