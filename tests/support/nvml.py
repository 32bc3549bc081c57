"""NVML without a driver: what the service uses of the module `pynvml`."""

from __future__ import annotations

from dataclasses import dataclass


class FakeNvmlError(Exception):
    """What every failing call of NVML raises."""


@dataclass
class FakeGpu:
    """A GPU of a `FakeNvml`; what is None is not supported."""

    used: int | None = 0
    total: int = 80 * 2**30
    gpu: int | None = 0
    name: str | None = "A GPU"


class FakeNvml:
    """The driver's library with these GPUs; None for a machine without a driver."""

    NVMLError = FakeNvmlError

    def __init__(self, *gpus: FakeGpu, has_driver: bool = True) -> None:
        self.gpus = gpus
        self.has_driver = has_driver
        self.is_lost = False
        self.num_inits = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.num_inits += 1
        if not self.has_driver:
            raise FakeNvmlError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        assert self.num_inits == 1
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        if self.is_lost:
            raise FakeNvmlError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> FakeGpu:  # noqa: N802
        if handle.used is None:
            raise FakeNvmlError("Not Supported")
        return handle

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:  # noqa: N802
        if handle.name is None:
            raise FakeNvmlError("Not Supported")
        return handle.name

    def nvmlDeviceGetUtilizationRates(self, handle: FakeGpu) -> FakeGpu:  # noqa: N802
        if handle.gpu is None:
            raise FakeNvmlError("Not Supported")
        return handle
