"""The log-mel front end as part of the graph: Kaldi's filter bank, as AST was trained with it.

Only the power of the spectrum counts, so the phase may be told from the middle of the frame. The window is symmetric about it,
so the frame is folded there: the cosines see the sum of its halves, the second as it is and the first mirrored, the sines the
difference, and the transform is two matrix products of half the length. Window and transform are one matrix each, computed in
float64 and rounded once.

What Kaldi does to a frame before the window needs no frames. Pre-emphasis is done to the whole waveform: that it treats a
frame's first sample in its own way does not show, for the window is zero there. A mean comes out of it as 0.03 of itself.
Frames start at multiples of 160 samples, so each half of a frame is put together of two rows of a reshaped waveform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.architecture import FRAME_SAMPLES, SAMPLE_RATE, SHIFT_SAMPLES, frames_to_samples

FFT_SIZE = 512
NUM_FREQUENCIES = FFT_SIZE // 2
"""Without the Nyquist bin, which no mel filter weighs."""
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
POWER_FLOOR = 1.1920929e-07
"""Float32's epsilon. Source: Kaldi's feature-fbank, ``log(max(energy, epsilon))``."""
INT16_SCALE = 32_768.0
_HALF = FRAME_SAMPLES // 2
_LAST = FRAME_SAMPLES - 2 * SHIFT_SAMPLES
"""Of a frame's third row."""

FloatMatrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Features:
    """How a checkpoint wants its log-mel normalised: ``(x - mean) / (2 * std)``."""

    mean: float = -4.2677393
    std: float = 4.5689974


def folded_transforms() -> tuple[FloatMatrix, FloatMatrix]:
    """Return the matrices from the folded halves of a frame to the real and imaginary parts of its spectrum.

    Returns:
        float64 `[200, 256]` each, cosines and sines: rows are distances from the middle of the frame, outwards, in int16 units.

    Source: Kaldi's feature-window (hanning).
    """
    distances = np.arange(_HALF) + 0.5
    window = 0.5 + 0.5 * np.cos(2.0 * math.pi * distances / (FRAME_SAMPLES - 1))
    angles = 2.0 * math.pi / FFT_SIZE * np.outer(distances, np.arange(NUM_FREQUENCIES))
    scaled = window[:, None] / INT16_SCALE
    return scaled * np.cos(angles), scaled * np.sin(angles)


def mel_filters(num_mel_bins: int) -> FloatMatrix:
    """Return Kaldi's triangular filters, equally spaced on ``1127 ln(1 + f / 700)`` from 20 Hz to 8 kHz.

    With 128 bins, filter 3 falls between two frequencies and is empty, in Kaldi's filter bank too.

    Returns:
        float64 `[256, num_mel_bins]`.

    Source: Kaldi's mel-computations.
    """
    low, high = _to_mel(LOW_HZ), _to_mel(SAMPLE_RATE / 2)
    edges = np.linspace(low, high, num_mel_bins + 2)
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    mel = _to_mel(np.arange(NUM_FREQUENCIES) * SAMPLE_RATE / FFT_SIZE)[:, None]
    up = (mel - left) / (center - left)
    down = (right - mel) / (right - center)
    return np.asarray(np.clip(np.minimum(up, down), 0.0, None))


def _to_mel(hertz: FloatMatrix | float) -> FloatMatrix:
    return np.asarray(1127.0 * np.log1p(np.asarray(hertz, dtype=np.float64) / 700.0))


class LogMel(nn.Module):
    """Waveforms to normalised log-mel features, in float32 whatever the encoder runs in.

    Args:
        num_mel_bins: Mel bins.
        max_length: The most frames of the output.
        features: The checkpoint's normalisation.
    """

    cosines: torch.Tensor
    sines: torch.Tensor
    filters: torch.Tensor
    frame_ends: torch.Tensor

    def __init__(self, num_mel_bins: int, max_length: int, features: Features) -> None:
        super().__init__()
        self.features = features
        cosines, sines = folded_transforms()
        self.register_buffer("cosines", torch.from_numpy(cosines).float())
        self.register_buffer("sines", torch.from_numpy(sines).float())
        self.register_buffer("filters", torch.from_numpy(mel_filters(num_mel_bins)).float())
        ends = [frames_to_samples(index + 1) for index in range(max_length)]
        self.register_buffer("frame_ends", torch.tensor(ends, dtype=torch.int64))

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Compute the features.

        A frame counts only where it lies inside its item's valid samples; the others are zero *before* normalising, as
        in training, so a ragged batch gives each item what it would get alone.

        Args:
            waveform: int16 `[batch, samples]` of whole frames, at most those of ``max_length``.
            lengths: int64 `[batch]`, valid samples.

        Returns:
            float32 `[batch, frames, num_mel_bins]`.
        """
        num_frames = (waveform.shape[1] - FRAME_SAMPLES) // SHIFT_SAMPLES + 1
        # Whole rows for the last frame; what comes before the first sample does not matter.
        samples = nn.functional.pad(waveform.float(), (1, -FRAME_SAMPLES % SHIFT_SAMPLES))
        now, before = samples[:, 1:], samples[:, :-1]
        # Of a large offset little is left where it is weighed as a whole and not in two products that nearly cancel.
        emphasised = PRE_EMPHASIS * (now - before) + (1.0 - PRE_EMPHASIS) * now
        first, second = _halves(_rows(emphasised), num_frames)
        even = second + first - 2.0 * (1.0 - PRE_EMPHASIS) * _means(_rows(now), num_frames)
        real, imaginary = torch.matmul(even, self.cosines), torch.matmul(second - first, self.sines)
        power = real * real + imaginary * imaginary
        log_mel = torch.log(torch.clamp(torch.matmul(power, self.filters), min=POWER_FLOOR))
        inside = (lengths[:, None] >= self.frame_ends[None, :num_frames])[:, :, None]
        log_mel = torch.where(inside, log_mel, torch.zeros((), dtype=torch.float32))
        return (log_mel - self.features.mean) / (2.0 * self.features.std)


def _rows(samples: torch.Tensor) -> torch.Tensor:
    """Return `[batch, rows, 160]` of `[batch, samples]`; frame *n* begins with row *n*."""
    return samples.reshape(samples.shape[0], -1, SHIFT_SAMPLES)


def _halves(rows: torch.Tensor, num_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both halves of every frame, `[batch, frames, 200]` each, from its middle outwards."""
    rest = _HALF - SHIFT_SAMPLES
    mirrored = rows.flip(2)
    first = torch.cat([mirrored[:, 1 : num_frames + 1, SHIFT_SAMPLES - rest :], mirrored[:, :num_frames]], dim=2)
    middle, last = rows[:, 1 : num_frames + 1, rest:], rows[:, 2 : num_frames + 2, :_LAST]
    return first, torch.cat([middle, last], dim=2)


def _means(rows: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Return every frame's mean, `[batch, frames, 1]`: of two rows and the first half of a third one."""
    sums = rows.reshape(rows.shape[0], -1, SHIFT_SAMPLES // _LAST, _LAST).sum(dim=3)
    whole = sums.sum(dim=2, keepdim=True)
    total = whole[:, :num_frames] + whole[:, 1 : num_frames + 1] + sums[:, 2 : num_frames + 2, :1]
    return total / FRAME_SAMPLES
