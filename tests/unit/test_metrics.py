from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from service.gpus import GpuReader
from service.inference.runner import ModelSpec
from service.labels import LabelSet
from service.metrics import MAX_ROUTES, STREAM_OUTCOMES, Metrics
from service.metrics_folder import forget_worker
from service.observer import Observer
from tests.support.nvml import FakeGpu, FakeNvml

SPEC = ModelSpec(
    name="tiny",
    labels=LabelSet(("Speech", "Music")),
    multi_label=True,
    sample_rate=16_000,
    window_samples=81_840,
    hop_samples=16_000,
    min_samples=400,
    embedding_size=192,
    provider="cpu",
    precision="int8",
    batch_sizes=(1, 2),
    source_sha256="ab" * 32,
)

WORKER = """
import sys
from service.metrics import Metrics
from tests.unit.test_metrics import SPEC
metrics = Metrics()
metrics.service_configured(num_workers=2, max_streams=50, max_lag_seconds=2)
metrics.model_loaded(SPEC, max_queue_windows=10, fell_back=True)
metrics.readiness_changed(True)
metrics.stream_opened()
metrics.queue_depth("tiny", 3)
metrics.batch_scored("tiny", 2)
metrics.stage_seconds("infer", 0.03)
metrics.window_lag(0.4)
print("up", flush=True)
sys.stdin.read()
"""


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    page, _ = metrics.render()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def test_metrics_are_an_observer() -> None:
    observer: Observer = Metrics()
    observer.stage_seconds("decode", 0.1)


def test_every_kind_of_count_reaches_the_page() -> None:
    metrics = Metrics()
    metrics.model_loaded(SPEC, max_queue_windows=256, fell_back=False)
    metrics.stage_seconds("infer", 0.03)
    metrics.batch_scored("tiny", 2)
    metrics.queue_depth("tiny", 7)
    metrics.audio_received("clip", 5.1)
    metrics.audio_dropped("lag", 1.5)
    metrics.window_lag(0.25)
    metrics.request_finished("/v1/classify", 200, 0.2)
    metrics.stream_opened()
    metrics.stream_opened()
    metrics.stream_closed("done")
    metrics.stream_refused("full")

    assert value(metrics, "sonotag_stage_duration_seconds_count", stage="infer") == 1
    assert value(metrics, "sonotag_stage_duration_seconds_sum", stage="infer") == 0.03
    assert value(metrics, "sonotag_stage_duration_seconds_bucket", stage="infer", le="0.025") == 0
    assert value(metrics, "sonotag_stage_duration_seconds_bucket", stage="infer", le="0.05") == 1
    assert value(metrics, "sonotag_batch_size_windows_sum", model="tiny") == 2
    assert value(metrics, "sonotag_windows_scored_total", model="tiny") == 2
    assert value(metrics, "sonotag_queue_depth_windows", model="tiny") == 7
    assert value(metrics, "sonotag_audio_received_seconds_total", source="clip") == 5.1
    assert value(metrics, "sonotag_audio_dropped_seconds_total", reason="lag") == 1.5
    assert value(metrics, "sonotag_window_lag_seconds_bucket", le="0.3") == 1
    assert value(metrics, "sonotag_requests_total", route="/v1/classify", status="200") == 1
    assert value(metrics, "sonotag_request_duration_seconds_count", route="/v1/classify") == 1
    assert value(metrics, "sonotag_streams_open") == 1
    assert value(metrics, "sonotag_streams_total", outcome="done") == 1
    assert value(metrics, "sonotag_streams_refused_total", reason="full") == 1
    labels = {"model": "tiny", "provider": "cpu", "precision": "int8", "source_sha256": "ab" * 32}
    assert value(metrics, "sonotag_model_info", **labels) == 1
    assert any(name == "sonotag_build_info" and number == 1 for (name, _), number in samples(metrics).items())


def test_limits_and_readiness_are_told_before_anything_happened() -> None:
    metrics = Metrics()
    assert value(metrics, "sonotag_workers_ready") == 0
    metrics.service_configured(num_workers=1, max_streams=1000, max_lag_seconds=2.5)
    metrics.model_loaded(SPEC, max_queue_windows=256, fell_back=False)
    metrics.readiness_changed(True)
    assert value(metrics, "sonotag_workers") == value(metrics, "sonotag_workers_ready") == 1
    assert value(metrics, "sonotag_streams_limit") == 1000
    assert value(metrics, "sonotag_window_lag_limit_seconds") == 2.5
    assert value(metrics, "sonotag_queue_limit_windows", model="tiny") == 256
    assert value(metrics, "sonotag_model_fallback", model="tiny") == 0
    metrics.readiness_changed(False)
    assert value(metrics, "sonotag_workers_ready") == 0


def test_closed_sets_exist_at_zero_before_anything_happened() -> None:
    metrics = Metrics()
    for outcome in STREAM_OUTCOMES:
        assert value(metrics, "sonotag_streams_total", outcome=outcome) == 0
    assert value(metrics, "sonotag_audio_dropped_seconds_total", reason="lag") == 0
    assert value(metrics, "sonotag_streams_refused_total", reason="draining") == 0


def test_no_caller_can_make_new_label_values() -> None:
    metrics = Metrics()
    metrics.stream_closed("something else")
    metrics.stream_refused("because")
    metrics.request_finished("/", 418, 0.1)
    metrics.request_finished("/", 304, 0.1)
    metrics.request_finished("/", 7, 0.1)
    assert value(metrics, "sonotag_streams_total", outcome="other") == 1
    assert value(metrics, "sonotag_streams_refused_total", reason="other") == 1
    assert value(metrics, "sonotag_requests_total", route="/", status="4xx") == 1
    assert value(metrics, "sonotag_requests_total", route="/", status="3xx") == 1
    assert value(metrics, "sonotag_requests_total", route="/", status="other") == 1


def test_answers_of_a_route_add_up_by_status_and_their_time_over_all() -> None:
    metrics = Metrics()
    for status in (200, 200, 404, 200):
        metrics.request_finished("/v1/classify", status, 0.25)
    assert value(metrics, "sonotag_requests_total", route="/v1/classify", status="200") == 3
    assert value(metrics, "sonotag_requests_total", route="/v1/classify", status="404") == 1
    assert value(metrics, "sonotag_request_duration_seconds_count", route="/v1/classify") == 4
    assert value(metrics, "sonotag_request_duration_seconds_sum", route="/v1/classify") == 1


def test_routes_are_bounded_even_when_paths_are_passed_by_mistake() -> None:
    metrics = Metrics()
    for index in (*range(MAX_ROUTES + 50), MAX_ROUTES + 49, 0):
        metrics.request_finished(f"/v1/models/{index}", 404, 0.001)
    routes = {dict(labels)["route"] for name, labels in samples(metrics) if name == "sonotag_requests_total"}
    assert len(routes) == MAX_ROUTES + 1
    assert value(metrics, "sonotag_requests_total", route="other", status="404") == 51
    assert value(metrics, "sonotag_requests_total", route="/v1/models/0", status="404") == 2


def test_a_page_is_text_that_prometheus_parses_and_has_no_creation_times() -> None:
    page, content_type = Metrics().render()
    assert content_type.startswith("text/plain")
    assert b"_created" not in page
    assert b"process_resident_memory_bytes" in page


def start_worker(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def stop_worker(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_workers_are_added_up_and_a_dead_workers_live_gauges_go(tmp_path: Path) -> None:
    first, second = start_worker(tmp_path), start_worker(tmp_path)
    try:
        metrics = Metrics(str(tmp_path))
        assert value(metrics, "sonotag_streams_open") == 2
        assert value(metrics, "sonotag_queue_depth_windows", model="tiny") == 6
        assert value(metrics, "sonotag_windows_scored_total", model="tiny") == 4
        assert value(metrics, "sonotag_stage_duration_seconds_count", stage="infer") == 2
        assert value(metrics, "sonotag_window_lag_seconds_bucket", le="0.5") == 2
        assert value(metrics, "sonotag_workers") == value(metrics, "sonotag_workers_ready") == 2
        assert value(metrics, "sonotag_streams_limit") == 50
        assert value(metrics, "sonotag_queue_limit_windows", model="tiny") == 20
        assert value(metrics, "sonotag_window_lag_limit_seconds") == 2
        assert value(metrics, "sonotag_model_fallback", model="tiny") == 1
        kinds = ("counter", "gauge_livemax", "gauge_livesum", "histogram")
        files = {tmp_path / f"{kind}_{process.pid}.db" for kind in kinds for process in (first, second)}
        assert set(tmp_path.iterdir()) == files, "whose room is set aside"
        build = [number for (name, _), number in samples(metrics).items() if name == "sonotag_build_info"]
        assert build == [1]

        stop_worker(first)
        forget_worker(tmp_path, first.pid)
        assert value(metrics, "sonotag_streams_open") == 1
        assert value(metrics, "sonotag_workers") == 2, "there should still be two"
        assert value(metrics, "sonotag_workers_ready") == 1
        assert value(metrics, "sonotag_streams_limit") == 50
        assert value(metrics, "sonotag_queue_depth_windows", model="tiny") == 3
        assert value(metrics, "sonotag_windows_scored_total", model="tiny") == 4, "what was scored stays counted"
        counts = [tmp_path / f"counter_{process.pid}.db" for process in (first, second)]
        assert counts[0].stat().st_size < counts[1].stat().st_size, "what was set aside for more of it is free"
        assert counts[1].stat().st_blocks * 512 >= counts[1].stat().st_size
    finally:
        for process in (first, second):
            if process.poll() is None:
                stop_worker(process)


def test_gpus_are_read_at_the_scrape_once_however_many_workers_there_are(tmp_path: Path) -> None:
    nvml = FakeNvml(FakeGpu(used=10, total=80, gpu=25), FakeGpu(used=20, total=80, gpu=None))
    for folder in (None, str(tmp_path)):
        metrics = Metrics(folder, gpus=GpuReader(lambda: nvml))  # type: ignore[arg-type, return-value]
        nvml.num_inits = 0
        for used in (10, 30):
            nvml.gpus[0].used = used
            assert value(metrics, "sonotag_gpu_memory_used_bytes", gpu="0") == used
        assert value(metrics, "sonotag_gpu_memory_total_bytes", gpu="1") == 80
        assert value(metrics, "sonotag_gpu_utilisation_ratio", gpu="0") == 0.25
        assert value(metrics, "sonotag_gpu_utilisation_ratio", gpu="1") is None


def test_a_machine_without_gpus_has_no_series_of_them() -> None:
    metrics = Metrics(gpus=GpuReader(lambda: FakeNvml(has_driver=False)))  # type: ignore[arg-type, return-value]
    assert "gpu" not in metrics.render()[0].decode()
