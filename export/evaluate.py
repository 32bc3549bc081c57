"""Labelled clips: does an 8-bit graph say what the float32 one says, and is it as often right? Is a short window?"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from export.architecture import FRAME_SAMPLES, SAMPLE_RATE
from export.errors import ExportError
from export.graph import Float, Graph
from export.signals import Int16, Signal, stack
from service.inference.bundle import ParityCheck

MIN_AGREEMENT = 0.97
MAP_DIFFERENCE = "macro mAP difference"
MAX_MAP_LOSS = 0.005
MAX_SHORT_LOSS = 0.01
"""What a short window may lose, of macro mAP and of top-1, against the long one that is padded."""
QUIETEST_PIECE = 10 ** (-45 / 20)
"""Pieces below this level (root mean square, full scale being 1) are mostly the silence that clips are filled with."""
CLIPS_FILE = "clips.csv"
_LABEL_COLUMNS = ("label", "audioset_label", "category")


@dataclass(frozen=True, slots=True)
class Clip:
    """A labelled sound; `label_id` is None where the model has no such label."""

    signal: Signal
    label_id: int | None


def read_clips(folder: Path, labels: tuple[str, ...]) -> tuple[Clip, ...]:
    """Read a folder's clips.

    Args:
        folder: Sound files, and ``clips.csv`` with the columns ``file`` and one of ``label``, ``audioset_label`` or
            ``category``: of those the one whose values the model knows most of.
        labels: The model's.

    Raises:
        ExportError: There is no such list, a file cannot be read, or no clip has a label that the model knows.
    """
    path = folder / CLIPS_FILE
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ExportError(f"--eval: {path} cannot be read: {error.strerror}") from error
    if not rows or "file" not in rows[0]:
        raise ExportError(f"--eval: {path} lists no clips (column file)")
    ids = {label.casefold(): index for index, label in enumerate(labels)}
    columns = [column for column in _LABEL_COLUMNS if column in rows[0]]
    known = {column: [ids.get((row[column] or "").strip().casefold()) for row in rows] for column in columns}
    best = max(columns, key=lambda column: len(rows) - known[column].count(None), default=None)
    if best is None or all(label_id is None for label_id in known[best]):
        raise ExportError(f"--eval: no clip in {path} has a label that the model knows")
    return tuple(Clip(_read_clip(folder / row["file"]), label_id) for row, label_id in zip(rows, known[best], strict=True))


def _read_clip(path: Path) -> Signal:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise ExportError(f"--eval: {path.name} cannot be read: {error}") from error
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        import soxr  # here alone: an export without labelled clips goes without it

        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    if len(mono) < FRAME_SAMPLES:
        raise ExportError(f"--eval: {path.name} has {len(mono)} samples at 16 kHz, expected at least {FRAME_SAMPLES}")
    clipped: Int16 = np.clip(np.rint(mono * 32_768.0), -32_768, 32_767).astype(np.int16)
    return Signal(path.name, clipped)


def score_clips(
    graph: Graph, clips: tuple[Clip, ...], window_samples: int, advance: Callable[[], None] = lambda: None
) -> Float:
    """Score the first window of each clip, one by one; `[clips, labels]`."""
    rows = []
    for clip in clips:
        rows.append(graph.run(stack((clip.signal,), window_samples)).scores)
        advance()
    return np.concatenate(rows)


def compare_scores(candidate: Float, baseline: Float, clips: tuple[Clip, ...]) -> list[ParityCheck]:
    """Compare an 8-bit graph's scores with those of float32 on the same clips.

    Returns:
        Agreement of the highest labels over all clips, and how much macro mAP is lost over those with a known label;
        both with their limits.
    """
    agreement = float(np.mean(candidate.argmax(axis=1) == baseline.argmax(axis=1)))
    before, after = macro_map(baseline, clips), macro_map(candidate, clips)
    where = f"{len(clips)} clips"
    return [
        ParityCheck(check="top-1 agreement", signal=where, measured=agreement, limit=MIN_AGREEMENT, at_least=True),
        ParityCheck(check=MAP_DIFFERENCE, signal=where, measured=abs(after - before), limit=MAX_MAP_LOSS),
        ParityCheck(check="macro mAP", signal=where, measured=after, limit=None, at_least=True),
    ]


def cut_pieces(clips: tuple[Clip, ...], num_samples: int) -> tuple[Clip, ...]:
    """Cut labelled clips into pieces side by side, a second or more apart, leaving out what is too quiet to tell."""
    pieces = []
    for clip in clips:
        samples = clip.signal.samples
        for start in range(0, len(samples) - num_samples + 1, max(num_samples, SAMPLE_RATE)):
            piece = samples[start : start + num_samples]
            level = np.sqrt(np.mean(np.square(piece / 32_768.0)))
            if clip.label_id is not None and level >= QUIETEST_PIECE:
                pieces.append(Clip(Signal(f"{clip.signal.name} from sample {start}", piece), clip.label_id))
    return tuple(pieces)


def compare_windows(graph: Graph, pieces: tuple[Clip, ...], short: int, long: int) -> list[ParityCheck]:
    """Compare a short window with a long one, padded, on pieces of sound that fit the short one.

    Args:
        graph: Takes both.
        pieces: Labelled ones, all of one length.
        short: Samples of the short window.
        long: Samples of the long one.

    Returns:
        How much oftener the best of the labels that occur is right in the short window, and how much higher its macro mAP
        is, with their limits; and the short window's own.
    """
    padded, cropped = score_clips(graph, pieces, long), score_clips(graph, pieces, short)
    right = top_1(cropped, pieces)
    precision = macro_map(cropped, pieces)
    where = f"{len(pieces)} pieces of {len(pieces[0].signal.samples) / SAMPLE_RATE:.3g} s, {short / SAMPLE_RATE:.3f} s window"
    gains = {"top-1 gain": right - top_1(padded, pieces), "macro mAP gain": precision - macro_map(padded, pieces)}
    return [
        *(
            ParityCheck(check=name, signal=where, measured=gain, limit=-MAX_SHORT_LOSS, at_least=True)
            for name, gain in gains.items()
        ),
        ParityCheck(check="top-1", signal=where, measured=right, limit=None, at_least=True),
        ParityCheck(check="macro mAP", signal=where, measured=precision, limit=None, at_least=True),
    ]


def top_1(scores: Float, clips: tuple[Clip, ...]) -> float:
    """Return for how many of the labelled clips the best of the labels that occur is the right one."""
    truth = np.array([-1 if clip.label_id is None else clip.label_id for clip in clips])
    labels = np.unique(truth[truth >= 0])
    best = labels[scores[:, labels].argmax(axis=1)]
    return float(np.mean(best[truth >= 0] == truth[truth >= 0]))


def macro_map(scores: Float, clips: tuple[Clip, ...]) -> float:
    """Return the mean, over the labels that occur, of the average precision of ranking the labelled clips by that label."""
    known = [index for index, clip in enumerate(clips) if clip.label_id is not None]
    truth = np.array([clips[index].label_id for index in known])
    return float(np.mean([average_precision(scores[known, label], truth == label) for label in np.unique(truth)]))


def average_precision(scores: Float, is_positive: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    """Return the mean precision at each positive, ranked by falling score; equal scores count against it."""
    order = np.lexsort((is_positive, -scores))
    hits = is_positive[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())
