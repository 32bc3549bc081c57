"""The lengths of window that a graph is made for: the checkpoint's own, and shorter ones that cost less."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from export.architecture import SAMPLE_RATE, Architecture
from export.checkpoint import Checkpoint
from export.errors import CheckpointError
from export.evaluate import Clip, compare_windows, cut_pieces
from export.graph import Float, Graph
from export.reference import Expected, Reference
from export.signals import Signal, check_signals, golden_signals, stack
from export.verify import check_features, check_outputs, condense
from service.inference.bundle import ParityCheck
from service.inference.runner import Precision


@dataclass(frozen=True, slots=True)
class Length:
    """One length, and what transformers says of it, with the middle of the position embeddings where it is shorter.

    Attributes:
        num_samples: A row of a batch.
        seconds: The sound that it was asked to hold; None for the checkpoint's own length.
        signals: What it is checked on.
        expected: What transformers makes of them.
        feature_checks: How close the front end alone is.
        golden_scores: The scores of the golden waveforms' beginnings, float32 `[n, labels]`.
    """

    num_samples: int
    seconds: float | None
    signals: tuple[Signal, ...]
    expected: Expected
    feature_checks: tuple[ParityCheck, ...]
    golden_scores: Float

    @property
    def name(self) -> str:
        """How the parity report calls it."""
        return f"{self.num_samples / SAMPLE_RATE:.3f} s window"

    def check(self, graph: Graph, precision: Precision) -> list[ParityCheck]:
        """Compare a graph with transformers at this length; of a shorter one, only the worst of the signals is reported."""
        checks = [*self.feature_checks, *check_outputs(graph, precision, self.expected, self.signals, self.num_samples)]
        return checks if self.seconds is None else condense(checks, self.name)

    def time(self, graph: Graph) -> ParityCheck:
        """Measure what a window costs."""
        milliseconds = 1e3 * graph.seconds_a_window(stack(self.signals[:1], self.num_samples))
        signal = "speech" if self.seconds is None else self.name
        return ParityCheck(check="milliseconds a window", signal=signal, measured=milliseconds, limit=None)


def choose_frames(architecture: Architecture, seconds: tuple[float, ...]) -> dict[int, float]:
    """Return the frames of the shorter windows, rising, and the sound that each must hold.

    Raises:
        CheckpointError: One is not shorter than the checkpoint's window.
    """
    frames = {architecture.cover(each): each for each in sorted(seconds)}
    if architecture.max_length in frames:
        window = architecture.window_samples / SAMPLE_RATE
        raise CheckpointError(
            f"a short window of {frames[architecture.max_length]:g} s needs the {window:g} s of the checkpoint's own"
        )
    return frames


def prepare_length(checkpoint: Checkpoint, features: Graph, frames: int, seconds: float | None) -> Length:
    """Run transformers at one length.

    Args:
        checkpoint: The whole one.
        features: The front end alone.
        frames: The length.
        seconds: See `Length`.

    Raises:
        CheckpointError: transformers does not take the checkpoint.
    """
    own_samples = checkpoint.architecture.window_samples
    cropped = checkpoint if frames == checkpoint.architecture.max_length else checkpoint.with_frames(frames)
    num_samples = cropped.architecture.window_samples
    signals = check_signals(num_samples)
    reference = Reference(cropped)
    expected = reference.run(signals)
    golden = tuple(dataclasses.replace(one, samples=one.samples[:num_samples]) for one in golden_signals(own_samples))
    return Length(
        num_samples=num_samples,
        seconds=seconds,
        signals=signals,
        expected=expected,
        feature_checks=tuple(check_features(features, expected, signals, num_samples)),
        golden_scores=reference.run(golden).outputs.scores,
    )


def judge_lengths(graph: Graph, lengths: tuple[Length, ...], clips: tuple[Clip, ...]) -> list[ParityCheck]:
    """Compare each shorter window, at its whole length and where it is filled least, with the long one, padded.

    Args:
        graph: In float32.
        lengths: Rising; the last one is the checkpoint's own.
        clips: Labelled ones.
    """
    checks: list[ParityCheck] = []
    longest = lengths[-1].num_samples
    least = 0
    for length in lengths[:-1]:
        assert length.seconds is not None
        fullest = round(length.seconds * SAMPLE_RATE)
        for num_samples in (fullest, max(least + 1, fullest // 2)):
            pieces = cut_pieces(clips, num_samples)
            if pieces:
                checks += compare_windows(graph, pieces, length.num_samples, longest)
        least = length.num_samples
    return checks
