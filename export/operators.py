"""How the graph writes attention, residual add with layer norm, and gelu: onnxruntime's fused operators or standard ones.

No fusion of onnxruntime's offline optimizer recognises AST's attention in a plain export, so the fused operators are
written by the network itself. That also needs no pattern to match: what is exported is what was meant.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

MICROSOFT = "com.microsoft"


class NormParameters(Protocol):
    """A layer norm, and the bias that is added before it."""

    weight: nn.Parameter
    bias: nn.Parameter
    before: nn.Parameter


class Operators(Protocol):
    """The three operators that a transformer block is made of, besides products."""

    opset: int
    unfolds_patches: bool
    """Whether patches are embedded by a product instead of a convolution: for GPUs, see `export.patches`."""

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
        """Attend, scaled by the root of the head's width; `[batch, tokens, hidden]` in and out."""
        ...

    def add_norm(self, x: torch.Tensor, skip: torch.Tensor, norm: NormParameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the layer norm of ``x + before + skip``, and that sum."""
        ...

    def bias_gelu(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the exact (erf) gelu of ``x + bias``."""
        ...


class FusedOperators:
    """onnxruntime's contributed operators, which run on its CPU and CUDA providers.

    They exist in the exported graph only: run in torch, they return numbers without a meaning.

    Args:
        eps: Epsilon of the layer norms.
        fuses_sums: Write a sum and the layer norm or gelu of it as one operator, SkipLayerNormalization and BiasGelu. On a
            GPU each saves a pass over memory. On the CPU their kernels are slower than the two operators apart (tiny on one
            core, 24 layer norms: 5.5 ms against 1.6), and an 8-bit product adds the bias of a gelu itself.
        unfolds_patches: See `Operators.unfolds_patches`.
    """

    opset = 20

    def __init__(self, eps: float, *, fuses_sums: bool, unfolds_patches: bool) -> None:
        self.eps = eps
        self.fuses_sums = fuses_sums
        self.unfolds_patches = unfolds_patches

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
        """See `Operators.attention`."""
        return torch.onnx.ops.symbolic(
            f"{MICROSOFT}::MultiHeadAttention",
            (query, key, value),
            {"num_heads": num_heads},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )

    def add_norm(self, x: torch.Tensor, skip: torch.Tensor, norm: NormParameters) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Operators.add_norm`."""
        if not self.fuses_sums:
            return add_then_norm(x, skip, norm, self.eps)
        statistics = (*x.shape[:2], 1)
        normed, _, _, total = torch.onnx.ops.symbolic_multi_out(
            f"{MICROSOFT}::SkipLayerNormalization",
            (x, skip, norm.weight, norm.bias, norm.before),
            {"epsilon": self.eps},
            dtypes=(x.dtype, torch.float32, torch.float32, x.dtype),
            shapes=(x.shape, statistics, statistics, x.shape),
            version=1,
        )
        return normed, total

    def bias_gelu(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """See `Operators.bias_gelu`."""
        if not self.fuses_sums:
            return nn.functional.gelu(x + bias)
        return torch.onnx.ops.symbolic(f"{MICROSOFT}::BiasGelu", (x, bias), dtype=x.dtype, shape=x.shape, version=1)


class PortableOperators:
    """Operators of the ONNX standard alone (opset 23 has Attention): for other runtimes, and slower on onnxruntime's CPU.

    Args:
        eps: Epsilon of the layer norms.
        unfolds_patches: See `Operators.unfolds_patches`.
    """

    opset = 23

    def __init__(self, eps: float, *, unfolds_patches: bool) -> None:
        self.eps = eps
        self.unfolds_patches = unfolds_patches

    def attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int) -> torch.Tensor:
        """See `Operators.attention`."""
        return torch.onnx.ops.attention(query, key, value, q_num_heads=num_heads, kv_num_heads=num_heads)[0]

    def add_norm(self, x: torch.Tensor, skip: torch.Tensor, norm: NormParameters) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Operators.add_norm`."""
        return add_then_norm(x, skip, norm, self.eps)

    def bias_gelu(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """See `Operators.bias_gelu`."""
        return nn.functional.gelu(x + bias)


def add_then_norm(x: torch.Tensor, skip: torch.Tensor, norm: NormParameters, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what `Operators.add_norm` says with standard operators."""
    total = x + norm.before + skip
    return nn.functional.layer_norm(total, total.shape[2:], norm.weight, norm.bias, eps), total
