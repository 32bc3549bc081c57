"""From features to tokens: the patch embedding, as a strided convolution or as a product of unfolded patches. Both are exact.

On a CPU the convolution is better where patches overlap (stride 10, one core, tiny: 1.4 ms a window against 3.3 to 4.0) and the
same where they do not. On a GPU the product should be: cuDNN's convolution took 0.64 ms of base's 22 ms for 32 windows, and a
product of that size needs a fraction (not measured).
"""

from __future__ import annotations

import torch
from torch import nn


class PatchConvolution(nn.Module):
    """Patches by a strided convolution.

    Args:
        weight: `[hidden, 1, size, size]` in frequency and time, as checkpoints have it.
        stride: In frequency and time.
    """

    def __init__(self, weight: torch.Tensor, stride: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
        self.stride = stride

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Embed `[batch, frames, mel bins]` as `[batch, patches, hidden]`, patches in order of frequency, then time."""
        image = features.transpose(1, 2).unsqueeze(1)
        return nn.functional.conv2d(image, self.weight, stride=self.stride).flatten(2).transpose(1, 2)


class PatchProduct(nn.Module):
    """The same as `PatchConvolution` by cutting the patches out and one matrix product.

    Args:
        weight: `[hidden, 1, size, size]`.
        stride: In frequency and time.
        num_mel_bins: Mel bins of the features.
        max_length: The most frames that they have.
    """

    frequencies: torch.Tensor
    times: torch.Tensor

    def __init__(self, weight: torch.Tensor, stride: tuple[int, int], num_mel_bins: int, max_length: int) -> None:
        super().__init__()
        self.size = weight.shape[2]
        self.stride = stride
        # A patch is cut out as it lies in the features, time first.
        columns = weight[:, 0].permute(2, 1, 0).reshape(self.size**2, -1)
        self.weight = nn.Parameter(columns.float().contiguous(), requires_grad=False)
        self.register_buffer("frequencies", _starts(num_mel_bins, self.size, stride[0]))
        self.register_buffer("times", _starts(max_length, self.size, stride[1]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Embed `[batch, frames, mel bins]` as `[batch, patches, hidden]`, patches in order of frequency, then time."""
        num_times = (features.shape[1] - self.size) // self.stride[1] + 1
        if self.stride == (self.size, self.size):
            cut = features[:, : num_times * self.size]
        else:
            cut = features.index_select(1, self.times[:num_times].flatten()).index_select(2, self.frequencies.flatten())
        patches = cut.reshape(features.shape[0], num_times, self.size, len(self.frequencies), self.size)
        in_order = patches.permute(0, 3, 1, 2, 4).flatten(3).flatten(1, 2)
        return torch.matmul(in_order, self.weight)


def _starts(length: int, size: int, stride: int) -> torch.Tensor:
    """Return where the numbers of each patch lie along one axis, int64 `[patches, size]`."""
    return torch.arange((length - size) // stride + 1)[:, None] * stride + torch.arange(size)
