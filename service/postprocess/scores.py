"""Tags out of scores: which labels, how many, above which threshold; and one answer out of several windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.labels import LabelSet

FloatArray = npt.NDArray[np.float32]
Aggregation = Literal["mean", "max"]
Function = Literal["sigmoid", "softmax", "none"]

SCORE_DIGITS = 7


@dataclass(frozen=True, slots=True)
class Tag:
    """A label with its score in [0, 1]."""

    id: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class TagSelector:
    """Which tags of a model's scores are wanted.

    Attributes:
        labels: The model's labels.
        top_k: At most this many, at least 1.
        threshold: Keep score >= threshold.
        include: Ids that may appear; None for all.
        exclude: Ids that may not. Both apply before `top_k`.
    """

    labels: LabelSet
    top_k: int
    threshold: float = 0.0
    include: frozenset[int] | None = None
    exclude: frozenset[int] = frozenset()

    @property
    def selected(self) -> frozenset[int] | None:
        """The ids that may appear, or None when all may."""
        if self.include is None and not self.exclude:
            return None
        return (frozenset(range(len(self.labels))) if self.include is None else self.include) - self.exclude

    def select(self, scores: FloatArray) -> tuple[Tag, ...]:
        """Return the tags of one `[labels]` array, best first; equal scores in the order of their ids."""
        selected = self.selected
        ids = np.arange(len(scores)) if selected is None else np.array(sorted(selected), dtype=np.intp)
        best = ids[np.argsort(-scores[ids], kind="stable")][: self.top_k]
        threshold = float(np.float32(self.threshold))  # scores are float32: one that is as large as can be said is not below it
        return tuple(
            Tag(index, self.labels[index], round(score, SCORE_DIGITS))
            for index, score in zip(best.tolist(), scores[best].tolist(), strict=True)
            if score >= threshold
        )


class Aggregate:
    """One array out of those of several windows.

    Args:
        aggregation: `mean` weighs each window by the sound in it; `max` takes each element's largest value.
    """

    def __init__(self, aggregation: Aggregation) -> None:
        self._aggregation = aggregation
        self._value: npt.NDArray[np.float64] | None = None
        self._weight = 0

    def add(self, values: FloatArray, num_samples: int) -> None:
        """Take one window's `[n]` array, with the number of samples of sound in the window."""
        if self._value is None:
            self._value = np.full(values.shape, -np.inf if self._aggregation == "max" else 0.0)
        if self._aggregation == "max":
            np.maximum(self._value, values, out=self._value)
        else:
            self._value += values.astype(np.float64) * num_samples
        self._weight += num_samples

    def result(self) -> FloatArray:
        """Return the aggregate, float32 `[n]`.

        Raises:
            ValueError: Nothing was added.
        """
        if self._value is None:
            raise ValueError("no window was added")
        value = self._value if self._aggregation == "max" else self._value / self._weight
        return value.astype(np.float32)


def apply_function(logits: FloatArray, function: Function) -> FloatArray:
    """Turn logits `[n]` into float32 scores `[n]`: independent sigmoids, one softmax, or as they are."""
    if function == "none":
        return logits
    wide = logits.astype(np.float64)
    if function == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(wide / 2)), dtype=np.float32)  # this form cannot overflow
    powers = np.exp(wide - wide.max())
    return np.asarray(powers / powers.sum(), dtype=np.float32)
