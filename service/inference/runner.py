"""What a model is to the rest of the service: numbers that describe it, and one call that scores a batch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from service.labels import LabelSet

Int16Array = npt.NDArray[np.int16]
Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Provider = Literal["cpu", "cuda", "tensorrt"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What callers need to know of a served model.

    Attributes:
        name: The name it is served under.
        labels: Its labels; the head's order.
        multi_label: True for independent sigmoids, False for one softmax.
        sample_rate: Hz of the samples it takes.
        window_samples: The longest window it takes, in samples.
        windows_samples: The lengths that a batch may have, rising, the last one the longest window; none for that one alone.
        hop_samples: The hop that is used when a caller names none, in samples.
        min_samples: The fewest samples it can say anything about.
        embedding_size: Length of the embedding.
        provider: Where it runs.
        precision: What it runs in.
        batch_sizes: The batch sizes it was warmed up for, rising; the last one is the largest it takes.
        source_sha256: Hash of the checkpoint it was exported from: which weights these are.
        num_lanes: How many runs may be under way at once, each in a thread of its own.
        tuned_at: When it was measured that precision, threads, lanes and batches are best so; None where a rule chose them.
    """

    name: str
    labels: LabelSet
    multi_label: bool
    sample_rate: int
    window_samples: int
    hop_samples: int
    min_samples: int
    embedding_size: int
    provider: Provider
    precision: Precision
    batch_sizes: tuple[int, ...]
    source_sha256: str
    num_lanes: int = 1
    windows_samples: tuple[int, ...] = ()
    tuned_at: datetime | None = None

    def holding(self, num_samples: int) -> int:
        """Return the shortest length of a batch that holds windows of so many samples; the longest, where none does."""
        return next((length for length in self.lengths_samples if length >= num_samples), self.window_samples)

    @property
    def lengths_samples(self) -> tuple[int, ...]:
        """The lengths that a batch may have, rising; the last one is the longest window."""
        return self.windows_samples or (self.window_samples,)


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """A batch's results; the arrays belong to whoever asked.

    Attributes:
        logits: float32 `[batch, labels]`.
        scores: float32 `[batch, labels]`, after the checkpoint's own activation, each in [0, 1].
        embedding: float32 `[batch, embedding_size]`, or None when it was not asked for.
    """

    logits: FloatArray
    scores: FloatArray
    embedding: FloatArray | None


class Runner(Protocol):
    """Scores batches. `spec.num_lanes` threads call `run`, each one batch at a time: the batcher's own."""

    @property
    def spec(self) -> ModelSpec:
        """What the model is; it does not change."""
        ...

    def prepare_thread(self) -> None:
        """Make the calling thread one that runs. Every such thread calls it once, first, and one thread after another.

        Raises:
            Exception: It cannot run here; the model is not served then.
        """
        ...

    def run(self, waveform: Int16Array, lengths: Int64Array, *, embedding: bool) -> ModelOutput:
        """Score a batch.

        Args:
            waveform: int16 `[batch, samples]`, `samples` being one of the spec's lengths of a batch; what lies past a row's
                length is ignored. The caller keeps the buffer and may write to it again once this returns.
            lengths: int64 `[batch]`, valid samples of each row, from `min_samples` to `samples`.
            embedding: Whether to compute the embedding output.

        Raises:
            Exception: Whatever the library raises; the batcher translates it for the batch's callers.
        """
        ...

    def close(self) -> None:
        """Release the model. Further calls are errors."""
        ...
