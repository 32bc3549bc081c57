"""What NVIDIA's driver says of the machine's GPUs, by the library NVML (package nvidia-ml-py).

NVML numbers GPUs as nvidia-smi does and shows those that this container may use, whatever CUDA_VISIBLE_DEVICES says.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger(__name__)


class Memory(Protocol):
    """NVML's reading of a GPU's memory, in bytes."""

    used: int
    total: int


class Utilization(Protocol):
    """NVML's reading of how busy a GPU is: the share of the last second or less in which a kernel ran, in percent."""

    gpu: int


class Nvml(Protocol):
    """What is used of the module `pynvml`."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:  # noqa: N802
        """Find the driver."""
        ...

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return how many GPUs there are."""
        ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        """Return a GPU."""
        ...

    def nvmlDeviceGetName(self, handle: object) -> str:  # noqa: N802
        """Return what it calls itself."""
        ...

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Memory:  # noqa: N802
        """Return its memory."""
        ...

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Utilization:  # noqa: N802
        """Return how busy it is."""
        ...


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU, now. What the driver does not tell (a GPU cut in slices has no utilisation) is None.

    Attributes:
        index: Its number, as nvidia-smi counts.
        used_bytes: Memory in use, by whomever.
        total_bytes: Memory that it has.
        utilisation: Share of the time in which it computes, 0 to 1.
        name: What it calls itself.
    """

    index: int
    used_bytes: int | None
    total_bytes: int | None
    utilisation: float | None
    name: str | None


class GpuReader:
    """Reads the machine's GPUs; nothing where there is no driver, and never an error. Any thread may read.

    Args:
        load: Returns NVML, or None where it is not installed.
    """

    def __init__(self, load: Callable[[], Nvml | None] | None = None) -> None:
        self._load = load or _load_nvml
        self._lock = threading.Lock()
        self._nvml: Nvml | None = None
        self._is_open = False

    def read(self) -> tuple[GpuReading, ...]:
        """Return a reading of every GPU, in order."""
        with self._lock:
            nvml = self._open()
            if nvml is None:
                return ()
            try:
                return tuple(self._read_one(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
            except nvml.NVMLError as error:  # a GPU that fell off the bus, a driver that was replaced
                logger.debug("the GPUs cannot be read: %s", error)
                return ()

    def count(self) -> int | None:
        """Return how many GPUs there are; None where there is no driver to ask."""
        with self._lock:
            nvml = self._open()
            return None if nvml is None else nvml.nvmlDeviceGetCount()

    def _open(self) -> Nvml | None:
        """Find the driver, once: a machine without one is not asked again at every scrape."""
        if not self._is_open:
            self._is_open = True
            nvml = self._load()
            if nvml is not None:
                try:
                    nvml.nvmlInit()
                    self._nvml = nvml
                except nvml.NVMLError as error:
                    logger.debug("no GPU is watched: %s", error)
        return self._nvml

    @staticmethod
    def _read_one(nvml: Nvml, index: int) -> GpuReading:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        used = total = utilisation = name = None
        with contextlib.suppress(nvml.NVMLError):
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            used, total = memory.used, memory.total
        with contextlib.suppress(nvml.NVMLError):
            utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        with contextlib.suppress(nvml.NVMLError):
            name = nvml.nvmlDeviceGetName(handle)
        return GpuReading(index, used, total, utilisation, name)


def _load_nvml() -> Nvml | None:
    try:
        import pynvml
    except ImportError:
        return None
    module: Nvml = pynvml
    return module
