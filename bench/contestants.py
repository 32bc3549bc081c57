"""What is compared: anything that scores a batch of windows, each prepared outside the time that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from export.signals import Batch

Scores = npt.NDArray[np.float32]
Run = Callable[[], Scores]
Device = Literal["cpu", "cuda"]
Counts = Literal["waveform to scores", "features to scores"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a contestant before it runs.

    Attributes:
        name: Of the row in the report.
        precision: What the encoder runs in.
        counts: What the time covers.
        note: What a reader must know to judge it, or nothing.
        is_same_model: Whether its scores are to be those of the checkpoint.
        is_export: Whether it is a graph of our export, which leaves out what nobody reads of the last layer.
        batches: How many batches one run scores, beside each other or one queued behind the other: its time is divided by it.
    """

    name: str
    precision: str
    counts: Counts
    note: str = ""
    is_same_model: bool = True
    is_export: bool = False
    batches: int = 1


class Contestant(Protocol):
    """Scores batches. One thread."""

    facts: Facts

    def prepare(self, batch: Batch) -> Run:
        """Do what does not count (a buffer, features, a warm-up that compiles) and return what does: it scores the batch,
        `Facts.batches` times.

        That returns when the scores are in the host's memory.

        Raises:
            Exception: It cannot run this batch here; whatever the library raises.
        """
        ...


@dataclass(frozen=True, slots=True)
class Absent:
    """A contestant that is not in the race, and why."""

    name: str
    reason: str
