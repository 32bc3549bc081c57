"""Real sound for the load: files, or the speech that every bundle carries."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from service.audio.decoding import open_audio
from service.audio.resampling import Resampler
from service.errors import InvalidParameter
from service.inference.bundle import open_bundle
from service.inference.runner import Int16Array
from service.settings import Settings

MIN_SECONDS = 1.0
CLIP_SECONDS = 5.0
"""Of the clips for REST: what the common collections have, and a window of the embedded model."""


def read_sounds(paths: Sequence[str], settings: Settings, sample_rate: int) -> tuple[Int16Array, ...]:
    """Return sounds of a second or more, mono; golden clips of the default bundle where no file is named.

    Args:
        paths: Sound files.
        settings: Which bundle is the default one.
        sample_rate: What to return, Hz.

    Raises:
        InvalidParameter: A file is too short.
        ServiceError: A file is no sound, or broken.
        BundleError: The bundle is incomplete or altered.
        OSError: A file cannot be read.
    """
    if not paths:
        bundle = open_bundle(settings.bundles[0].folder)
        golden = bundle.load_golden()
        rate = bundle.manifest.sample_rate
        rows = (row[:length] for row, length in zip(golden.waveform, golden.lengths, strict=True))
        sounds = tuple(resample(row.astype(np.float32) / 32768, rate, sample_rate) for row in rows if len(row) >= rate)
        if sounds:
            return sounds
        raise InvalidParameter("the bundle's golden clips are shorter than a second: name sound files", param="sound")
    files = tuple(read_sound(Path(path), sample_rate) for path in paths)
    for path, sound in zip(paths, files, strict=True):
        if len(sound) < MIN_SECONDS * sample_rate:
            raise InvalidParameter(f"{Path(path).name} is shorter than {MIN_SECONDS:g} s", param="sound")
    return files


def resample(samples: np.ndarray[tuple[int], np.dtype[np.float32]], rate: int, target: int) -> Int16Array:
    """Return samples in [-1, 1] as int16 at another rate."""
    resampler = Resampler(rate, target)
    return np.concatenate([resampler.push(samples), resampler.finish()])


def make_clips(
    sounds: Sequence[Int16Array], sample_rate: int, seconds: float = CLIP_SECONDS, format: str = "WAV"
) -> tuple[bytes, ...]:
    """Return each sound as a file of so many seconds and 16 bits, WAV or FLAC, repeated where it is shorter."""
    clips = []
    for sound in sounds:
        file = io.BytesIO()
        samples = np.resize(sound, round(seconds * sample_rate))
        soundfile.write(file, samples, sample_rate, format=format, subtype="PCM_16")
        clips.append(file.getvalue())
    return tuple(clips)


def read_sound(path: Path, sample_rate: int) -> Int16Array:
    """Return a file's sound, mono, at a rate in Hz.

    Raises:
        ServiceError: It is no sound, or broken.
        OSError: It cannot be read.
    """
    with path.open("rb") as file, open_audio(file, channel=None) as audio:
        resampler = Resampler(audio.sample_rate, sample_rate)
        pieces = [resampler.push(block) for block in audio.blocks()]
    return np.concatenate([*pieces, resampler.finish()])
