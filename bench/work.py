"""How much arithmetic a window is, from the network's numbers; and how fast the device does arithmetic at all."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from bench.contestants import Device
from export.architecture import FRAME_SAMPLES, NUM_SPECIAL_TOKENS, Architecture

FFT_BINS = 256
"""Of 257: the Nyquist bin has no mel weight."""
PRODUCT_SIZES = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices: large enough that the device is busy with nothing else, small enough for a round."""
REPEATS = {"cpu": 1, "cuda": 20}
"""Products in a row: on a GPU one takes a thousandth of a second or two, of which starting and waiting would be a part."""


@dataclass(frozen=True, slots=True)
class Work:
    """Floating point operations of one window, a multiplication and an addition counted as two.

    Attributes:
        linear: The products with the encoder's weights.
        attention: The two products of attention.
        patches: The patch embedding.
        front_end: The spectrum and the mel bands; a contestant that starts from features does not do it.
        unread: What of the first two belongs to tokens of the last layer that nobody reads: the graphs of our export, which
            compute two tokens there, leave it out.
    """

    linear: int
    attention: int
    patches: int
    front_end: int
    unread: int

    @property
    def encoder(self) -> int:
        """All of it but the front end, the last layer whole: the nominal operations, which compare contestants' speed."""
        return self.linear + self.attention + self.patches

    @property
    def exported(self) -> int:
        """What the graphs of our export do of it: a rate of arithmetic counts no operation that was not done."""
        return self.encoder - self.unread


def count_work(architecture: Architecture) -> Work:
    """Count a window's operations; the few of layer norms, activations and the head are left out."""
    hidden, mlp, tokens = architecture.hidden_size, architecture.mlp_size, architecture.num_tokens
    frequency, frames = architecture.grid
    unread = tokens - NUM_SPECIAL_TOKENS
    return Work(
        linear=architecture.num_layers * 2 * (4 * hidden**2 + 2 * hidden * mlp) * tokens,
        attention=architecture.num_layers * 4 * tokens**2 * hidden,
        patches=2 * architecture.patch_size**2 * hidden * frequency * frames,
        # Frames are folded about their middle: cosines and sines of half a frame each.
        front_end=2 * architecture.max_length * FFT_BINS * (FRAME_SAMPLES + architecture.num_mel_bins),
        # The last layer's keys and values are those of all tokens; queries, output and MLP are not.
        unread=unread * (2 * (2 * hidden**2 + 2 * hidden * mlp) + 4 * tokens * hidden),
    )


class Product:
    """A large matrix product on the device: float16 on a GPU, float32 on a CPU, where float16 is slow.

    Args:
        device: Where.
        size: Side of the matrices; None for `PRODUCT_SIZES`.
    """

    def __init__(self, device: Device, size: int | None = None) -> None:
        self.size = size or PRODUCT_SIZES[device]
        self.dtype = torch.float16 if device == "cuda" else torch.float32
        generator = torch.Generator().manual_seed(1)
        self._left, self._right = (
            torch.randn(self.size, self.size, generator=generator).to(device, self.dtype) for _ in range(2)
        )
        self._out = torch.empty_like(self._left)
        self._is_cuda = device == "cuda"

    @property
    def operations(self) -> int:
        """Of one product."""
        return 2 * self.size**3

    def measure(self, repeats: int | None = None) -> float:
        """Return operations a second, over some products in a row (`REPEATS`)."""
        repeats = repeats or REPEATS["cuda" if self._is_cuda else "cpu"]
        if self._is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            torch.matmul(self._left, self._right, out=self._out)
        if self._is_cuda:
            torch.cuda.synchronize()
        return repeats * self.operations / (time.perf_counter() - began)
