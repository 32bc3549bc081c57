"""The numbers of an AST network, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 16_000
FRAME_SAMPLES = 400
"""25 ms at 16 kHz."""
SHIFT_SAMPLES = 160
"""10 ms at 16 kHz."""
NUM_SPECIAL_TOKENS = 2
"""[CLS] and the distillation token."""

_LAYER_SHAPES = {
    "attention.attention.query": ("hidden", "hidden"),
    "attention.attention.key": ("hidden", "hidden"),
    "attention.attention.value": ("hidden", "hidden"),
    "attention.output.dense": ("hidden", "hidden"),
    "intermediate.dense": ("mlp", "hidden"),
    "output.dense": ("hidden", "mlp"),
}
_QKV_PREFIX = "attention.attention."


@dataclass(frozen=True, slots=True)
class Architecture:
    """The numbers of the network, as its checkpoint gives them.

    Attributes:
        hidden_size: Width of a token.
        num_layers: Transformer blocks.
        num_heads: Attention heads of a block.
        mlp_size: Width inside the MLP.
        patch_size: Side of a square patch, in mel bins and frames.
        frequency_stride: Mel bins from one patch to the next.
        time_stride: Frames from one patch to the next.
        num_mel_bins: Mel bins of the input.
        max_length: Frames of the input.
        num_labels: Outputs of the head.
        has_qkv_bias: Whether query, key and value products have a bias.
        layer_norm_eps: Epsilon of every layer norm.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    patch_size: int
    frequency_stride: int
    time_stride: int
    num_mel_bins: int
    max_length: int
    num_labels: int
    has_qkv_bias: bool = True
    layer_norm_eps: float = 1e-12

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in frequency and in time."""
        return (
            (self.num_mel_bins - self.patch_size) // self.frequency_stride + 1,
            (self.max_length - self.patch_size) // self.time_stride + 1,
        )

    @property
    def num_tokens(self) -> int:
        """Patches and the two special tokens."""
        frequency, time = self.grid
        return frequency * time + NUM_SPECIAL_TOKENS

    @property
    def window_samples(self) -> int:
        """Samples of `max_length` frames: 164,080 for 1024."""
        return frames_to_samples(self.max_length)

    def cover(self, seconds: float) -> int:
        """Return the fewest frames, ending where a patch ends, that hold `seconds` of sound: nothing of it is outside all
        patches (1 s: 112 frames at patches of 16 every 16, 106 at every 10), and never more than `max_length`."""
        beyond = max(0, seconds_to_frames(seconds) - self.patch_size)
        return min(self.max_length, self.patch_size - -beyond // self.time_stride * self.time_stride)

    @property
    def num_encoder_weights(self) -> int:
        """12·L·d², the usual estimate of a transformer's size (84.9 M for base)."""
        return 12 * self.num_layers * self.hidden_size**2


def frames_to_samples(num_frames: int) -> int:
    """Return the samples that `num_frames` whole frames span."""
    return FRAME_SAMPLES + SHIFT_SAMPLES * (num_frames - 1)


def seconds_to_frames(seconds: float) -> int:
    """Return the fewest frames that together hold `seconds` of sound."""
    num_samples = round(seconds * SAMPLE_RATE)
    return max(1, -(-(num_samples - FRAME_SAMPLES) // SHIFT_SAMPLES) + 1)


def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return every tensor that a checkpoint must hold, by its name on the hub, with its shape."""
    sizes = {"hidden": architecture.hidden_size, "mlp": architecture.mlp_size}
    hidden = (architecture.hidden_size,)
    embeddings = "audio_spectrogram_transformer.embeddings."
    shapes: dict[str, tuple[int, ...]] = {
        f"{embeddings}cls_token": (1, 1, *hidden),
        f"{embeddings}distillation_token": (1, 1, *hidden),
        f"{embeddings}position_embeddings": (1, architecture.num_tokens, *hidden),
        f"{embeddings}patch_embeddings.projection.weight": (*hidden, 1, architecture.patch_size, architecture.patch_size),
        f"{embeddings}patch_embeddings.projection.bias": hidden,
        "classifier.dense.weight": (architecture.num_labels, *hidden),
        "classifier.dense.bias": (architecture.num_labels,),
    }
    norms = ["audio_spectrogram_transformer.layernorm", "classifier.layernorm"]
    for index in range(architecture.num_layers):
        layer = f"audio_spectrogram_transformer.encoder.layer.{index}."
        norms += [f"{layer}layernorm_before", f"{layer}layernorm_after"]
        for name, (rows, columns) in _LAYER_SHAPES.items():
            shapes[f"{layer}{name}.weight"] = (sizes[rows], sizes[columns])
            if architecture.has_qkv_bias or not name.startswith(_QKV_PREFIX):
                shapes[f"{layer}{name}.bias"] = (sizes[rows],)
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = hidden
    return shapes
