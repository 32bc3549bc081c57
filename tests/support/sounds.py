"""Sounds for tests: rendered with numpy, encoded with ffmpeg, spoken by espeak-ng."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from service.audio.intake import ContainerIntake, Intake
from tests.support.programs import find_program

FloatArray = npt.NDArray[np.float32]
Int16Array = npt.NDArray[np.int16]


def tone(seconds: float, hz: float, rate: int, *, amplitude: float = 0.5) -> FloatArray:
    """Return a sine, float32 `[n]`."""
    times = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def noise(seconds: float, rate: int, *, amplitude: float = 0.1, seed: int = 0) -> FloatArray:
    """Return white noise, float32 `[n]`; `amplitude` is its standard deviation."""
    return (amplitude * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def write_wav(path: Path, waveform: FloatArray, rate: int, subtype: str = "FLOAT") -> Path:
    """Write float32 `[n]` or `[n, channels]` as a WAV file."""
    soundfile.write(path, waveform, rate, subtype=subtype, format="WAV")
    return path


def encode(directory: Path, waveform: FloatArray, rate: int, name: str, *ffmpeg_args: str) -> Path:
    """Encode float32 `[n]` or `[n, channels]` with ffmpeg to a file of that name; return its path."""
    program = find_program("ffmpeg")
    source = write_wav(directory / f"{name}.source.wav", waveform, rate)
    target = directory / name
    command = [program, "-nostdin", "-loglevel", "error", "-y", "-i", str(source), *ffmpeg_args, str(target)]
    subprocess.run(command, check=True, timeout=120)
    source.unlink()
    return target


def speech(directory: Path, text: str = "The quick brown fox jumps over the lazy dog, and then it runs away.") -> Path:
    """Return a 16 kHz mono WAV of a spoken sentence of about four seconds."""
    program = find_program("espeak-ng")
    spoken = directory / "spoken.wav"
    subprocess.run([program, "-w", str(spoken), text], check=True, timeout=60)
    waveform, rate = soundfile.read(spoken, dtype="float32")
    return encode(directory, waveform, rate, "speech.wav", "-ar", "16000", "-ac", "1", "-c:a", "pcm_s16le")


def loudest_hz(samples: npt.NDArray[np.generic], rate: int) -> float:
    """Return the frequency at which the spectrum peaks, to 1/4 of a bin of the whole length or better."""
    wave = samples.astype(np.float64) * np.hanning(len(samples))
    spectrum = np.abs(np.fft.rfft(wave, 4 * len(wave)))
    return float(np.argmax(spectrum)) * rate / (4 * len(wave))


def take_in(intake: Intake, data: bytes, cuts: list[int] | None = None) -> Int16Array:
    """Push all bytes, cut at these places, finish, and return all samples."""
    borders = [0, *sorted(cuts or []), len(data)]
    pieces = [np.zeros(0, np.int16)]
    try:
        for start, end in itertools.pairwise(borders):
            pieces += intake.push(data[start:end])
        pieces += intake.finish()
    finally:
        intake.close()
    return np.concatenate(pieces)


def stream_samples(data: bytes, cuts: list[int] | None = None, *, channel: int | None = None, rate: int = 16_000) -> Int16Array:
    """Return the samples of a container's bytes, sent as a stream cut at these places."""
    return take_in(ContainerIntake(channel=channel, target_rate=rate), data, cuts)
