"""What the benchmark says of GPUs, over some seconds."""

from __future__ import annotations

from service.bench.gpus import GpuUse, GpuWatch
from service.gpus import GpuReader
from tests.support.nvml import FakeGpu, FakeNvml

GIB = 2**30


def test_every_gpu_is_watched_while_the_context_is_open() -> None:
    nvml = FakeNvml(FakeGpu(used=3 * GIB, gpu=40, name="H100"), FakeGpu(used=None, gpu=None, name=None))
    with GpuWatch(GpuReader(lambda: nvml)) as watch:  # type: ignore[arg-type, return-value]
        pass
    assert watch.uses == (GpuUse("0: H100", 0.4, 3 * GIB), GpuUse("1: a GPU", None, None))


def test_a_machine_without_a_driver_has_none() -> None:
    with GpuWatch(GpuReader(lambda: None)) as watch:
        pass
    assert watch.uses == ()
