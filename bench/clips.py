"""The sounds that all contestants get: real ones, a window of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.architecture import FRAME_SAMPLES, SAMPLE_RATE
from export.signals import Batch
from service.bench.sounds import read_sound
from service.errors import SonotagError

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = (REPOSITORY.parent / "shared" / "audio" / "esc50", REPOSITORY / "examples")
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}


class ClipsError(SonotagError):
    """There are no sounds to compare on."""


def find_folder(given: Path | None) -> Path:
    """Return the folder of the sounds: the one that was named, else the first of `FOLDERS` that is there."""
    return given or next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[-1])


def read_batch(folder: Path, window_samples: int, size: int) -> Batch:
    """Return the first window of each sound of a folder, in the order of names, round and round until the batch is full.

    Raises:
        ClipsError: The folder has no sound of a frame or more.
        ServiceError: A file cannot be decoded.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)[:size]
    sounds = [sound[:window_samples] for path in paths if len(sound := read_sound(path, SAMPLE_RATE)) >= FRAME_SAMPLES]
    if not sounds:
        raise ClipsError(f"{folder} has no sound to compare on")
    waveform = np.zeros((size, window_samples), np.int16)
    lengths = np.empty(size, np.int64)
    for row in range(size):
        sound = sounds[row % len(sounds)]
        waveform[row, : len(sound)], lengths[row] = sound, len(sound)
    return Batch(waveform, lengths)


def first_rows(batch: Batch, size: int) -> Batch:
    """Return the first rows of a batch, in buffers of their own."""
    return Batch(batch.waveform[:size].copy(), batch.lengths[:size].copy())
