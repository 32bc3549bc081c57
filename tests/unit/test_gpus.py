from __future__ import annotations

import pytest

from service.errors import SettingsError
from service.gpu_choice import check_gpus, choose_gpu, count_workers, share_gpu_memory
from service.gpus import GpuReader, GpuReading
from service.inference.providers import has_nvidia_device
from tests.support.nvml import FakeGpu, FakeNvml

GIB = 2**30


def test_every_gpu_is_read_anew_each_time() -> None:
    nvml = FakeNvml(FakeGpu(used=3 * GIB, gpu=40), FakeGpu(used=5 * GIB, gpu=100))
    reader = GpuReader(lambda: nvml)  # type: ignore[arg-type, return-value]
    assert reader.read() == (
        GpuReading(0, 3 * GIB, 80 * GIB, 0.4, "A GPU"),
        GpuReading(1, 5 * GIB, 80 * GIB, 1.0, "A GPU"),
    )
    nvml.gpus[0].gpu = 0
    assert reader.read()[0].utilisation == 0.0
    assert reader.count() == 2
    assert nvml.num_inits == 1


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    reader = GpuReader(lambda: FakeNvml(FakeGpu(used=GIB, gpu=None), FakeGpu(used=None, gpu=7, name=None)))  # type: ignore[arg-type, return-value]
    assert reader.read() == (GpuReading(0, GIB, 80 * GIB, None, "A GPU"), GpuReading(1, None, None, 0.07, None))


def test_a_gpu_that_is_lost_is_no_error() -> None:
    nvml = FakeNvml(FakeGpu())
    reader = GpuReader(lambda: nvml)  # type: ignore[arg-type, return-value]
    nvml.is_lost = True
    assert reader.read() == ()
    nvml.is_lost = False
    assert len(reader.read()) == 1


def test_a_machine_without_a_driver_is_asked_once() -> None:
    nvml = FakeNvml(FakeGpu(), has_driver=False)
    reader = GpuReader(lambda: nvml)  # type: ignore[arg-type, return-value]
    assert reader.read() == reader.read() == ()
    assert reader.count() is None
    assert nvml.num_inits == 1
    assert GpuReader(lambda: None).read() == ()


def test_the_real_library_finds_a_gpu_where_there_is_one_and_is_quiet_elsewhere() -> None:
    assert bool(GpuReader().read()) == has_nvidia_device()


def test_workers_get_the_gpus_in_turn_by_the_numbers_of_nvidia_smi() -> None:
    chosen = [choose_gpu({}, (2, 0), worker) for worker in range(3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in chosen] == ["2", "0", "2"]
    assert {one["CUDA_DEVICE_ORDER"] for one in chosen} == {"PCI_BUS_ID"}
    assert choose_gpu({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, (1,), 0)["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"
    assert choose_gpu({}, (), 1) == {}


def test_where_some_gpus_are_shown_only_the_numbers_count_those() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "3, GPU-8a7f"}
    assert choose_gpu(environ, (0, 1), 1) == {"CUDA_VISIBLE_DEVICES": "GPU-8a7f"}
    check_gpus(environ, (0, 1), 2, num_gpus=8)
    with pytest.raises(SettingsError, match=r"GPU 2 is not there: CUDA_VISIBLE_DEVICES shows 2, numbered from 0 to 1"):
        check_gpus(environ, (2,), 1, num_gpus=8)


@pytest.mark.parametrize(
    ("num_gpus", "message"),
    [
        (2, r"GPU 2 is not there: this machine shows 2, numbered from 0 to 1 \(SONOTAG_GPUS\)"),
        (None, r"GPU 0 is not there: this machine shows none \(SONOTAG_GPUS\)"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(num_gpus: int | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_gpus({}, (0, 2), 2, num_gpus)


def test_a_gpu_without_a_worker_is_refused() -> None:
    with pytest.raises(SettingsError, match="2 GPUs and 1 workers"):
        check_gpus({}, (0, 1), 1, 2)
    check_gpus({}, (), 1, None)


def test_a_gpu_has_one_worker_and_a_machine_without_one_too() -> None:
    assert [count_workers(gpus) for gpus in ((), (3,), (0, 2))] == [1, 1, 2]


@pytest.mark.parametrize(
    ("totals", "gpus", "num_workers", "expected"),
    [
        ((80 * GIB,), (), 1, None),
        ((80 * GIB, 80 * GIB), (0, 1), 2, None),
        ((80 * GIB,), (), 4, 18 * GIB),
        ((80 * GIB, 80 * GIB), (0, 1), 8, 18 * GIB),
        ((80 * GIB, 80 * GIB), (0, 1), 3, 36 * GIB),
        ((80 * GIB, 40 * GIB), (0, 1), 4, 18 * GIB),
        ((None,), (), 4, None),
        ((), (), 4, None),
    ],
)
def test_workers_that_share_a_gpu_divide_its_memory(
    totals: tuple[int | None, ...], gpus: tuple[int, ...], num_workers: int, expected: int | None
) -> None:
    assert share_gpu_memory(totals, gpus, num_workers) == expected
