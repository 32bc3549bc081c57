"""The log-mel front end as part of the graph: Kaldi's filter bank, as AST was trained with it.

Mean removal, pre-emphasis, window and DFT are linear in the frame's samples, so they are one matrix, computed in
float64 and rounded once. Frames overlap, and every frame starts at a multiple of the shift: three neighbouring blocks
of 160 samples hold a frame, so framing is a reshape and a concatenation, and the transform is one matrix product with
rows of zeros past sample 400 (measured on a GPU: a quarter of the time of the same as a strided convolution).
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
_BLOCKS_PER_FRAME = -(-FRAME_SAMPLES // SHIFT_SAMPLES)

FloatMatrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Features:
    """How a checkpoint wants its log-mel normalised: ``(x - mean) / (2 * std)``."""

    mean: float = -4.2677393
    std: float = 4.5689974


def frame_transform() -> FloatMatrix:
    """Return the matrix from the samples of a frame to the real and imaginary parts of its spectrum.

    Returns:
        float64 `[480, 512]`: rows are samples in int16 units (zero past 400), columns 256 cosines, then 256 sines.

    Source: Kaldi's feature-window (remove_dc_offset, preemphasize with the first sample times 0.03, hanning).
    """
    identity = np.eye(FRAME_SAMPLES)
    remove_mean = identity - 1.0 / FRAME_SAMPLES
    pre_emphasis = identity - PRE_EMPHASIS * np.eye(FRAME_SAMPLES, k=1)
    pre_emphasis[0, 0] = 1.0 - PRE_EMPHASIS
    window = 0.5 - 0.5 * np.cos(2.0 * math.pi * np.arange(FRAME_SAMPLES) / (FRAME_SAMPLES - 1))
    angles = 2.0 * math.pi / FFT_SIZE * np.outer(np.arange(FRAME_SAMPLES), np.arange(NUM_FREQUENCIES))
    spectrum = np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)
    transform = remove_mean @ pre_emphasis @ (window[:, None] * spectrum) / INT16_SCALE
    padding = np.zeros((_BLOCKS_PER_FRAME * SHIFT_SAMPLES - FRAME_SAMPLES, transform.shape[1]))
    return np.concatenate([transform, padding])


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

    transform: torch.Tensor
    filters: torch.Tensor
    frame_ends: torch.Tensor

    def __init__(self, num_mel_bins: int, max_length: int, features: Features) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("transform", torch.from_numpy(frame_transform()).float())
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
        num_blocks = num_frames + _BLOCKS_PER_FRAME - 1
        samples = nn.functional.pad(waveform.float(), (0, _BLOCKS_PER_FRAME * SHIFT_SAMPLES - FRAME_SAMPLES))
        blocks = samples.reshape(waveform.shape[0], num_blocks, SHIFT_SAMPLES)
        frames = torch.cat([blocks[:, start : start + num_frames] for start in range(_BLOCKS_PER_FRAME)], dim=2)
        # The transform removes the mean, exactly but in float32: of a large offset, enough would be left to show in quiet
        # bins (features off by 7e-4). What is taken off before changes nothing else (then 2e-5).
        frames = frames - frames.mean(dim=2, keepdim=True)
        spectrum = torch.matmul(frames, self.transform)
        squares = spectrum * spectrum
        power = squares[:, :, :NUM_FREQUENCIES] + squares[:, :, NUM_FREQUENCIES:]
        log_mel = torch.log(torch.clamp(torch.matmul(power, self.filters), min=POWER_FLOOR))
        inside = (lengths[:, None] >= self.frame_ends[None, :num_frames])[:, :, None]
        log_mel = torch.where(inside, log_mel, torch.zeros((), dtype=torch.float32))
        return (log_mel - self.features.mean) / (2.0 * self.features.std)
