from __future__ import annotations

from service.inference.batcher import Batcher
from service.inference.catalog import Catalog
from service.metrics import Metrics
from service.speed import SpeedMeter, measure_speed
from tests.support.runners import FakeRunner


def test_the_speed_is_that_of_the_last_seconds() -> None:
    meter = SpeedMeter(span_seconds=10)
    assert meter.push(100.0, 50) == 0
    assert meter.push(101.0, 60) == 10
    assert meter.push(110.0, 150) == 10
    # The first count is forgotten: 90 windows in the nine seconds since the second one, then none.
    assert meter.push(111.0, 150) == 9
    assert meter.push(125.0, 150) == 0
    assert meter.push(125.0, 150) == 0


def test_a_model_that_has_not_run_has_no_possible_speed() -> None:
    metrics = Metrics()
    runner = FakeRunner()
    batcher = Batcher(runner, max_queue_windows=4, observer=metrics)
    metrics.model_loaded(runner.spec, max_queue_windows=4, fell_back=False)
    meters: dict[str, SpeedMeter] = {}
    measure_speed(Catalog({"fake": batcher}), metrics, meters, 1.0)
    metrics.batch_scored("fake", 4)
    measure_speed(Catalog({"fake": batcher}), metrics, meters, 3.0)
    gauges = metrics.read_gauges()
    assert gauges["sonotag_windows_per_second"] == {"fake": 2.0}
    assert gauges["sonotag_windows_possible_per_second"] == {"fake": 0.0}
