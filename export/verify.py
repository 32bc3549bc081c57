"""Is the exported graph the checkpoint? Every check, its limit, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.errors import ParityError
from export.graph import Float, Graph
from export.reference import Expected
from export.signals import Batch, Int16, Signal, stack
from service.inference.bundle import ParityCheck
from service.inference.runner import Precision

FEATURES_LIMIT = 5e-4
SHORT_SIGNAL = "0.1 s"


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest differences from the reference that a precision may have; None is reported only.

    Attributes:
        logits: Of a logit.
        scores: Of a score.
        embedding: Of an element of the embedding, whose elements are of order 1.
        ragged: Of a score between a batch of different lengths and the same items alone.
    """

    logits: float | None
    scores: float | None
    embedding: float | None
    ragged: float | None


LIMITS: dict[Precision, Limits] = {
    "fp32": Limits(logits=5e-4, scores=1e-4, embedding=1e-3, ragged=1e-4),
    "fp16": Limits(logits=None, scores=5e-3, embedding=None, ragged=1e-4),
    # Activations are scaled by the largest of the whole batch, so neighbours change an item's scores.
    "int8": Limits(logits=None, scores=None, embedding=None, ragged=None),
}


def check_features(graph: Graph, expected: Expected, signals: tuple[Signal, ...], window_samples: int) -> list[ParityCheck]:
    """Compare the front end alone with transformers' feature extractor."""
    features = graph.features(stack(signals, window_samples))
    return _compare("features", signals, features, expected.features, FEATURES_LIMIT)


def check_outputs(
    graph: Graph, precision: Precision, expected: Expected, signals: tuple[Signal, ...], window_samples: int
) -> list[ParityCheck]:
    """Compare a whole graph with transformers, each signal alone, and a ragged batch with its items alone."""
    limits = LIMITS[precision]
    alone = [graph.run(stack((signal,), window_samples)) for signal in signals]
    logits, scores, embedding = (
        np.concatenate([getattr(item, name) for item in alone]) for name in ("logits", "scores", "embedding")
    )
    reference = expected.outputs
    checks = _compare("logits", signals, logits, reference.logits, limits.logits)
    checks += _compare("scores", signals, scores, reference.scores, limits.scores)
    checks += _compare("embedding", signals, embedding, reference.embedding, limits.embedding)
    # On a GPU a batch of another size takes other kernels, and half's last bit is 1e-3 of a logit of order 1.
    ragged = limits.scores if precision == "fp16" and graph.provider == "cuda" else limits.ragged
    checks.append(_check_ragged(graph, signals, window_samples, ragged))
    agreement = float(np.mean(scores.argmax(axis=1) == reference.scores.argmax(axis=1)))
    checks.append(ParityCheck(check="top-1 agreement", signal="all signals", measured=agreement, limit=None, at_least=True))
    return checks


def _check_ragged(graph: Graph, signals: tuple[Signal, ...], window_samples: int, limit: float | None) -> ParityCheck:
    speech = signals[0].samples
    items = (
        signals[0],
        next(signal for signal in signals if signal.name == SHORT_SIGNAL),
        Signal("half", speech[: max(window_samples // 2, 400)]),
    )
    noise: Int16 = np.random.default_rng(7).integers(-20_000, 20_000, window_samples).astype(np.int16)
    together = graph.run(stack(items, window_samples, rest=noise)).scores
    alone = np.concatenate([graph.run(stack((item,), window_samples)).scores for item in items])
    worst = _largest_difference(together, alone)
    return ParityCheck(check="ragged batch", signal="speech, 0.1 s, half", measured=worst, limit=limit)


def _compare(check: str, signals: tuple[Signal, ...], got: Float, expected: Float, limit: float | None) -> list[ParityCheck]:
    return [
        ParityCheck(check=check, signal=signal.name, measured=_largest_difference(mine, theirs), limit=limit)
        for signal, mine, theirs in zip(signals, got, expected, strict=True)
    ]


def _largest_difference(got: Float, expected: Float) -> float:
    """Return the largest absolute difference; one NaN makes it infinite."""
    if not np.isfinite(got).all():
        return float("1e30")
    return float(np.abs(got.astype(np.float64) - expected).max())


def condense(checks: list[ParityCheck], where: str) -> list[ParityCheck]:
    """Return the worst of each kind of check, said to be measured on ``where``."""
    worst: dict[str, ParityCheck] = {}
    for check in checks:
        have = worst.setdefault(check.check, check)
        if check.measured < have.measured if check.at_least else check.measured > have.measured:
            worst[check.check] = check
    return [check.model_copy(update={"signal": where}) for check in worst.values()]


def is_kept(check: ParityCheck) -> bool:
    """Tell whether a check is within its limit."""
    if check.limit is None:
        return True
    return check.measured >= check.limit if check.at_least else check.measured <= check.limit


def enforce(precision: Precision, checks: list[ParityCheck]) -> None:
    """Stop the export where a limit is not kept.

    Raises:
        ParityError: Names the check that is furthest out.
    """
    broken = [check for check in checks if not is_kept(check)]
    if broken:
        worst = broken[0] if broken[0].at_least else max(broken, key=lambda check: check.measured / (check.limit or 1e-30))
        relation = "at least" if worst.at_least else "at most"
        raise ParityError(
            f"{precision}: {worst.check} on {worst.signal} is {worst.measured:.3g}, expected {relation} {worst.limit:g} "
            f"({len(broken)} of {len(checks)} checks failed)"
        )


def golden_tolerance(precision: Precision, graph: Graph, golden: Batch, scores: Float) -> float:
    """Return how far a score may be from the golden ones when a service loads the bundle on its own machine.

    float32 and float16 have fixed tolerances, five and two times what export allows, for the kernels of other machines.
    int8 has three times what this machine measures, and no less than 0.02.
    """
    if precision == "fp32":
        return 5e-4
    if precision == "fp16":
        return 1e-2
    return max(0.02, 3.0 * _largest_difference(graph.run(golden).scores, scores))
