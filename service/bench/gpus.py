"""How busy the GPUs are, where NVIDIA's library and its Python package (nvidia-ml-py) are there."""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from types import ModuleType, TracebackType

_PERIOD_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Of one GPU over some seconds.

    Attributes:
        name: Of the card.
        utilisation: Share of the time in which a kernel ran, 0 to 1.
        memory_bytes: The most that was taken, by everybody on it.
    """

    name: str
    utilisation: float
    memory_bytes: int


class GpuWatch:
    """Looks at the GPUs twice a second while the context is open, in a thread; `uses` says what it saw."""

    def __init__(self) -> None:
        self._library = _load()
        self._stop = threading.Event()
        self._samples: dict[str, list[tuple[float, int]]] = {}
        self._thread = threading.Thread(target=self._watch, name="gpus", daemon=True)

    def __enter__(self) -> GpuWatch:
        if self._library is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._library is not None:
            self._stop.set()
            self._thread.join()
            self._library.nvmlShutdown()

    @property
    def uses(self) -> tuple[GpuUse, ...]:
        """One for each GPU; after the context is closed."""
        return tuple(
            GpuUse(name, sum(busy for busy, _ in samples) / len(samples), max(memory for _, memory in samples))
            for name, samples in self._samples.items()
        )

    def _watch(self) -> None:
        library = self._library
        assert library is not None
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        while not self._stop.wait(_PERIOD_SECONDS):
            for index, handle in enumerate(handles):
                busy = library.nvmlDeviceGetUtilizationRates(handle).gpu / 100
                memory = library.nvmlDeviceGetMemoryInfo(handle).used
                name = f"{index}: {library.nvmlDeviceGetName(handle)}"
                self._samples.setdefault(name, []).append((busy, memory))


def _load() -> ModuleType | None:
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
    except ImportError:
        return None
    except Exception as error:  # its own class, which can only be named where the library is there
        if type(error).__module__ != "pynvml":
            raise
        return None
    return library
