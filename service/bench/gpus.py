"""How busy the GPUs are over some seconds."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType

from service.gpus import GpuReader, GpuReading

_PERIOD_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Of one GPU over some seconds. What the driver does not tell is None.

    Attributes:
        name: Its number and what it calls itself.
        utilisation: Share of the time in which a kernel ran, 0 to 1.
        memory_bytes: The most that was taken, by everybody on it.
    """

    name: str
    utilisation: float | None
    memory_bytes: int | None


class GpuWatch:
    """Looks at the GPUs twice a second while the context is open, in a thread; `uses` says what it saw.

    Args:
        reader: Reads them.
    """

    def __init__(self, reader: GpuReader | None = None) -> None:
        self._reader = reader or GpuReader()
        self._stop = threading.Event()
        self._readings: dict[int, list[GpuReading]] = {}
        self._thread = threading.Thread(target=self._watch, name="gpus", daemon=True)

    def __enter__(self) -> GpuWatch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def uses(self) -> tuple[GpuUse, ...]:
        """One for each GPU; after the context is closed."""
        return tuple(_sum_up(readings) for readings in self._readings.values())

    def _watch(self) -> None:
        while readings := self._reader.read():
            for reading in readings:
                self._readings.setdefault(reading.index, []).append(reading)
            if self._stop.wait(_PERIOD_SECONDS):
                return


def _sum_up(readings: list[GpuReading]) -> GpuUse:
    shares = [reading.utilisation for reading in readings if reading.utilisation is not None]
    return GpuUse(
        name=f"{readings[0].index}: {readings[0].name or 'a GPU'}",
        utilisation=sum(shares) / len(shares) if shares else None,
        memory_bytes=max((reading.used_bytes for reading in readings if reading.used_bytes is not None), default=None),
    )
