"""How much of something there is in a second."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Final

from service.inference.reason import read_reason

BLOCKS: Final = 5
"""Each number is the median of so many blocks, with the least and the most."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of something in a second: the median of several blocks, the least and the most."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:,.1f} ({self.least:,.1f} to {self.most:,.1f})"


@dataclass(slots=True)
class Results:
    """What was measured, by name; what else there is to say, or why something was not measured.

    Attributes:
        rates: By name.
        notes: By name, too.
        kernels: Milliseconds of a run, the longest first.
        keep: Is called with the numbers after each attempt: a library that crashes in the next one leaves those.
    """

    rates: dict[str, Rate] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    kernels: list[tuple[str, float]] = field(default_factory=list)
    keep: Callable[[dict[str, object]], None] = field(default=lambda numbers: None, repr=False)

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Go on where one measurement fails, and say why: the rest of a borrowed hour is worth having."""
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:  # noqa: BLE001  (torch, transformers and onnxruntime share no class of errors)
            self.notes[name] = f"{type(error).__name__}: {read_reason(error)}"
        self.keep(self.to_numbers())

    def to_numbers(self) -> dict[str, object]:
        """Return it ready for JSON."""
        rates = {name: asdict(rate) for name, rate in self.rates.items()}
        return {"rates": rates, "notes": dict(self.notes), "kernels": list(self.kernels)}

    def to_markdown(self) -> str:
        """Return lists and the table of kernels."""
        lines = [f"- {name}: {rate}" for name, rate in self.rates.items()]
        lines += [f"- {name}: {note}" for name, note in self.notes.items()]
        if self.kernels:
            lines += ["", "| kernel | ms a run |", "|---|---:|", *(f"| `{name}` | {ms:.3f} |" for name, ms in self.kernels)]
        return "\n".join(lines) + "\n"


def measure(run: Callable[[], object], amount: float, seconds: float) -> Rate:
    """Return how much a second a call does, in blocks of about so many seconds, after one call that is not counted.

    Args:
        run: Returns when it is done.
        amount: Of each call.
        seconds: Of a block.
    """
    run()
    started = time.perf_counter()
    run()
    calls = max(1, round(seconds / max(time.perf_counter() - started, 1e-6)))
    rates = []
    for _ in range(BLOCKS):
        started = time.perf_counter()
        for _ in range(calls):
            run()
        rates.append(calls * amount / (time.perf_counter() - started))
    return Rate(statistics.median(rates), min(rates), max(rates))
