"""AST as a torch module that is made to be exported, not trained.

The same function as the checkpoint's, arranged so that the graph does less:

- The key bias adds the same number to every score of a query's softmax: it is dropped.
- Attention's weights sum to one, so the value bias passes through unchanged: it is folded into the output projection's.
- Only the two special tokens of the last layer are read: its queries, MLP and norm are computed for those alone
  (of 12 layers, this saves about one fifteenth of the encoder).
- Matrices are stored as they are multiplied, so that the graph transposes no weights.
"""

from __future__ import annotations

import torch
from torch import nn

from export.architecture import NUM_SPECIAL_TOKENS, Architecture
from export.frontend import Features, LogMel
from export.operators import Operators
from export.patches import PatchConvolution, PatchProduct
from export.positions import middle

Weights = dict[str, torch.Tensor]


class Linear(nn.Module):
    """``x @ weight``; the bias belongs to the operator that comes next.

    Args:
        weight: `[out, in]`, as checkpoints have it.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = _parameter(weight.t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return torch.matmul(x, self.weight)


class Norm(nn.Module):
    """A layer norm's parameters, with the bias that is added before it."""

    def __init__(self, weights: Weights, name: str, before: torch.Tensor) -> None:
        super().__init__()
        self.weight = _parameter(weights[f"{name}.weight"])
        self.bias = _parameter(weights[f"{name}.bias"])
        self.before = _parameter(before)


class Layer(nn.Module):
    """One transformer block, from the normed input and the residual to the next block's.

    Args:
        weights: The checkpoint's tensors.
        index: Which block.
        architecture: The network's numbers.
        operators: How the graph writes attention, norm and gelu.
    """

    def __init__(self, weights: Weights, index: int, architecture: Architecture, operators: Operators) -> None:
        super().__init__()
        layer = f"audio_spectrogram_transformer.encoder.layer.{index}."
        is_last = index == architecture.num_layers - 1
        following = "audio_spectrogram_transformer." + (
            "layernorm" if is_last else f"encoder.layer.{index + 1}.layernorm_before"
        )
        self.operators = operators
        self.num_heads = architecture.num_heads
        self.num_queries = NUM_SPECIAL_TOKENS if is_last else None
        self.query, self.key, self.value = (
            Linear(weights[f"{layer}attention.attention.{name}.weight"]) for name in ("query", "key", "value")
        )
        self.output = Linear(weights[f"{layer}attention.output.dense.weight"])
        self.up = Linear(weights[f"{layer}intermediate.dense.weight"])
        self.down = Linear(weights[f"{layer}output.dense.weight"])
        output_bias = weights[f"{layer}attention.output.dense.bias"].double()
        self.query_bias: nn.Parameter | None = None
        if architecture.has_qkv_bias:
            self.query_bias = _parameter(weights[f"{layer}attention.attention.query.bias"])
            projection = weights[f"{layer}attention.output.dense.weight"].double()
            output_bias = output_bias + projection @ weights[f"{layer}attention.attention.value.bias"].double()
        self.up_bias = _parameter(weights[f"{layer}intermediate.dense.bias"])
        self.norm_after = Norm(weights, f"{layer}layernorm_after", output_bias)
        self.norm_next = Norm(weights, following, weights[f"{layer}output.dense.bias"])

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the block.

        Args:
            x: `[batch, tokens, hidden]`, normed.
            residual: `[batch, tokens, hidden]`, what `x` was before its norm.

        Returns:
            The next block's `x` and `residual`; of the last block, for the special tokens alone.
        """
        source = x
        if self.num_queries is not None:
            x, residual = x[:, : self.num_queries], residual[:, : self.num_queries]
        query = self.query(x)
        if self.query_bias is not None:
            query = query + self.query_bias
        attended = self.operators.attention(query, self.key(source), self.value(source), self.num_heads)
        x, residual = self.operators.add_norm(self.output(attended), residual, self.norm_after)
        x = self.down(self.operators.bias_gelu(self.up(x), self.up_bias))
        return self.operators.add_norm(x, residual, self.norm_next)


class Encoder(nn.Module):
    """Features to the pooled embedding: patches, positions and blocks. This is what float16 means."""

    def __init__(self, weights: Weights, architecture: Architecture, operators: Operators) -> None:
        super().__init__()
        prefix = "audio_spectrogram_transformer.embeddings."
        positions = weights[f"{prefix}position_embeddings"].double()
        special = torch.cat([weights[f"{prefix}cls_token"], weights[f"{prefix}distillation_token"]], dim=1).double()
        patch_bias = weights[f"{prefix}patch_embeddings.projection.bias"].double()
        self.eps = architecture.layer_norm_eps
        self.patches = _embed_patches(weights[f"{prefix}patch_embeddings.projection.weight"], architecture, operators)
        self.special = _parameter(special + positions[:, :NUM_SPECIAL_TOKENS])
        self.grid = architecture.grid
        # As a grid, so that a shorter window can take its middle: then its frequencies and times are [frequency, time] still.
        self.positions = _parameter((positions[:, NUM_SPECIAL_TOKENS:] + patch_bias).reshape(1, *self.grid, -1))
        self.norm_weight = _parameter(weights["audio_spectrogram_transformer.encoder.layer.0.layernorm_before.weight"])
        self.norm_bias = _parameter(weights["audio_spectrogram_transformer.encoder.layer.0.layernorm_before.bias"])
        self.layers = nn.ModuleList(Layer(weights, index, architecture, operators) for index in range(architecture.num_layers))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Run the encoder.

        Args:
            features: `[batch, frames, mel bins]`, of the encoder's type. Fewer frames than the network's have the middle of
                the grid's positions, as `export.positions` cuts them.

        Returns:
            float32 `[batch, hidden]`, the mean of the two special tokens after the last norm.
        """
        patches = self.patches(features.to(self.special.dtype))
        num_times = patches.shape[1] // self.grid[0]
        start = middle(self.grid[1], num_times)
        positions = self.positions[:, :, start : start + num_times].flatten(1, 2)
        special = self.special.expand(features.shape[0], -1, -1)
        residual = torch.cat([special, patches + positions], dim=1)
        x = nn.functional.layer_norm(residual, residual.shape[2:], self.norm_weight, self.norm_bias, self.eps)
        for layer in self.layers:
            x, residual = layer(x, residual)
        return x.float().mean(dim=1)


class Head(nn.Module):
    """The pooled embedding to logits, in float32 in every precision: it is one row a window."""

    def __init__(self, weights: Weights, architecture: Architecture) -> None:
        super().__init__()
        self.eps = architecture.layer_norm_eps
        self.norm_weight = _parameter(weights["classifier.layernorm.weight"])
        self.norm_bias = _parameter(weights["classifier.layernorm.bias"])
        self.dense = Linear(weights["classifier.dense.weight"])
        self.bias = _parameter(weights["classifier.dense.bias"])

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 `[batch, labels]`."""
        x = nn.functional.layer_norm(embedding, embedding.shape[1:], self.norm_weight, self.norm_bias, self.eps)
        return torch.addmm(self.bias, x, self.dense.weight)


class Tagger(nn.Module):
    """The whole graph: int16 samples to logits, scores and embedding.

    Args:
        weights: The checkpoint's tensors, by their names on the hub.
        architecture: The network's numbers; they must fit the weights.
        features: The checkpoint's normalisation.
        activation: What makes scores of logits.
        operators: How the graph writes attention, norm and gelu.
    """

    def __init__(
        self,
        weights: Weights,
        architecture: Architecture,
        features: Features,
        activation: str,
        operators: Operators,
    ) -> None:
        super().__init__()
        self.is_softmax = activation == "softmax"
        self.frontend = LogMel(architecture.num_mel_bins, architecture.max_length, features)
        self.encoder = Encoder(weights, architecture, operators)
        self.head = Head(weights, architecture)

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score a batch; see `service.inference.bundle` for the graph's inputs and outputs."""
        embedding = self.encoder(self.frontend(waveform, lengths))
        logits = self.head(embedding)
        scores = torch.softmax(logits, dim=1) if self.is_softmax else torch.sigmoid(logits)
        return logits, scores, embedding


def _embed_patches(weight: torch.Tensor, architecture: Architecture, operators: Operators) -> nn.Module:
    stride = (architecture.frequency_stride, architecture.time_stride)
    if operators.unfolds_patches:
        return PatchProduct(weight, stride, architecture.num_mel_bins, architecture.max_length)
    return PatchConvolution(weight, stride)


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.float().contiguous(), requires_grad=False)
