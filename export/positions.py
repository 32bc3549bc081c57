"""Position embeddings for another grid of patches, made as the original repository makes them."""

from __future__ import annotations

import torch

from export.architecture import NUM_SPECIAL_TOKENS


def middle(have: int, size: int) -> int:
    """Return where the middle ``size`` of ``have`` begin.

    Source: the original's ASTModel, which starts at ``50 - t // 2`` of 101 and at ``12 - t // 2`` of 24.
    """
    return have // 2 - size // 2


def resize_time(grid: torch.Tensor, size: int) -> torch.Tensor:
    """Crop the time axis in the middle, or stretch it bilinearly where it must be longer.

    Args:
        grid: `[1, hidden, frequency, time]`.
        size: Patches in time.
    """
    have = grid.shape[3]
    if size <= have:
        start = middle(have, size)
        return grid[:, :, :, start : start + size]
    return torch.nn.functional.interpolate(grid, size=(grid.shape[2], size), mode="bilinear")


def resize_frequency(grid: torch.Tensor, size: int) -> torch.Tensor:
    """Do for the frequency axis what `resize_time` does for time."""
    return resize_time(grid.transpose(2, 3), size).transpose(2, 3)


def to_grid(patches: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Return `[1, patches, hidden]` as `[1, hidden, frequency, time]`, in float32."""
    return patches.float().transpose(1, 2).reshape(1, patches.shape[2], *shape)


def to_rows(grid: torch.Tensor) -> torch.Tensor:
    """Return `[1, hidden, frequency, time]` as `[1, patches, hidden]`."""
    return grid.flatten(2).transpose(1, 2).contiguous()


def resize_positions(positions: torch.Tensor, have: tuple[int, int], want_time: int) -> torch.Tensor:
    """Return an AST's position embeddings for another length.

    Args:
        positions: `[1, 2 + frequency * time, hidden]`; the rows of the special tokens come first and stay.
        have: Patches in frequency and time now.
        want_time: Patches in time wanted.
    """
    special, patches = positions[:, :NUM_SPECIAL_TOKENS], positions[:, NUM_SPECIAL_TOKENS:]
    resized = to_rows(resize_time(to_grid(patches, have), want_time)).to(positions.dtype)
    return torch.cat([special, resized], dim=1)
