"""What 8-bit floating point products would cost in accuracy, on labelled clips: `python -m bench.fp8 --clips FOLDER`.

The network of our export runs in torch on the CPU in float32. The factors of its linear products are rounded to float8 (e4m3)
and back, each with a scale that makes its largest value the format's, and the products are summed in float32. That measures
accuracy alone, there is no speed in it. A variant that loses more than `MAX_MAP_LOSS` of macro mAP against float32 is out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import nn

from bench.clips import FOLDERS, REPOSITORY
from export.architecture import Architecture
from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import ExportError
from export.evaluate import MAX_MAP_LOSS, Clip, macro_map, read_clips, top_1
from export.graph import Float
from export.network import Linear, Tagger
from export.operators import PortableOperators
from export.signals import Signal, check_signals, stack
from service import exit_codes

CHECKPOINT = REPOSITORY / "export" / "checkpoints" / "ast-tiny-16-16-5s"
FORMAT: Final = torch.float8_e4m3fn
LARGEST: Final = torch.finfo(FORMAT).max
ATTENTION, MLP = ("query", "key", "value", "output"), ("up", "down")
WeightScale = Literal["matrix", "output"]
InputScale = Literal["token", "window", "fixed"]


@dataclass(frozen=True, slots=True)
class Variant:
    """Which products are in 8 bits, and how finely they are scaled.

    Attributes:
        name: Which products, in words.
        products: Of each layer, of `ATTENTION` and `MLP`.
        skipped: Layers at either end that stay as they are.
        weights: One scale for a matrix, or one for each of its outputs.
        inputs: One scale for each token, for a window, or a fixed one, which a graph can hold: what is larger than all that
            the export's own signals make is clipped.
    """

    name: str
    products: tuple[str, ...]
    skipped: int = 0
    weights: WeightScale = "output"
    inputs: InputScale = "token"

    @property
    def scales(self) -> str:
        """How it is scaled, in words."""
        return f"{self.weights}, {self.inputs}" if self.products else ""


ALL: Final = ATTENTION + MLP
VARIANTS: Final = (
    Variant("none (float32)", ()),
    Variant("all", ALL),
    Variant("all", ALL, weights="matrix", inputs="window"),
    Variant("all", ALL, weights="matrix", inputs="fixed"),
    Variant("the MLP's", MLP),
    Variant("the MLP's", MLP, weights="matrix", inputs="fixed"),
    Variant("all but the first and last layer's", ALL, skipped=1),
    Variant("all but the first and last layer's", ALL, skipped=1, weights="matrix", inputs="fixed"),
)
"""The first is what the others are compared with; matrix and fixed are the scales that onnxruntime's GemmFloat8 takes."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a variant said of the clips.

    Attributes:
        variant: Which.
        macro_map: Over the labels that occur.
        top_1: Share of clips whose best label, of those that occur, is the right one.
        difference: The largest difference of a score from float32.
        agreement: Share of clips with the same best label of all as in float32.
    """

    variant: Variant
    macro_map: float
    top_1: float
    difference: float
    agreement: float


class Float8Linear(nn.Module):
    """A `Linear` whose factors have been through float8.

    Args:
        linear: The one that it replaces.
        variant: How they are scaled.
    """

    def __init__(self, linear: Linear, variant: Variant) -> None:
        super().__init__()
        self.weight = nn.Parameter(round_weight(linear.weight, variant.weights), requires_grad=False)
        self.inputs = variant.inputs
        self.is_learning = variant.inputs == "fixed"
        self.largest = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply one window; while it learns its fixed scale, with the inputs as they are."""
        if self.is_learning:
            self.largest = torch.maximum(self.largest, x.abs().amax())
            return torch.matmul(x, self.weight)
        largest = self.largest if self.inputs == "fixed" else _largest(x, -1 if self.inputs == "token" else None)
        return torch.matmul(round_to_float8(x, largest), self.weight)


def round_weight(weight: torch.Tensor, scale: WeightScale) -> torch.Tensor:
    """Return a matrix `[in, out]` as float8 has it."""
    return round_to_float8(weight, _largest(weight, None if scale == "matrix" else 0))


def round_to_float8(values: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return values as float8 has them, in their own type.

    Args:
        values: Of any shape.
        largest: What the format's largest number stands for, of a shape that goes with theirs; what is beyond is clipped.
    """
    scale = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
    return (values / scale).clamp(-LARGEST, LARGEST).to(FORMAT).to(values.dtype) * scale


def _largest(values: torch.Tensor, dim: int | None) -> torch.Tensor:
    return values.abs().amax() if dim is None else values.abs().amax(dim=dim, keepdim=True)


def make_tagger(checkpoint: Checkpoint, variant: Variant) -> Tagger:
    """Return the network of our export with a variant's products in it."""
    architecture: Architecture = checkpoint.architecture
    operators = PortableOperators(architecture.layer_norm_eps, unfolds_patches=False)
    tagger = Tagger(checkpoint.weights, architecture, checkpoint.features, checkpoint.activation, operators).eval()
    layers = list(tagger.encoder.layers)
    replaced = []
    for layer in layers[variant.skipped : len(layers) - variant.skipped]:
        for name in variant.products:
            linear = getattr(layer, name)
            assert isinstance(linear, Linear)
            replaced.append(Float8Linear(linear, variant))
            setattr(layer, name, replaced[-1])
    if variant.inputs == "fixed":
        score(tagger, check_signals(architecture.window_samples), architecture.window_samples)
        for product in replaced:
            product.is_learning = False
    return tagger


def score(tagger: Tagger, signals: tuple[Signal, ...], window_samples: int) -> Float:
    """Score the first window of each sound, one by one; `[sounds, labels]`."""
    rows = []
    with torch.inference_mode():
        for signal in signals:
            batch = stack((signal,), window_samples)
            rows.append(tagger(torch.from_numpy(batch.waveform), torch.from_numpy(batch.lengths))[1].numpy())
    return np.concatenate(rows)


def measure_accuracy(
    checkpoint: Checkpoint, clips: tuple[Clip, ...], tell: Callable[[str], None] = lambda _: None
) -> list[Accuracy]:
    """Score the clips with every variant; float32 is the first."""
    found: list[Accuracy] = []
    expected: Float | None = None
    signals = tuple(clip.signal for clip in clips)
    for variant in VARIANTS:
        tell(f"{variant.name}: {variant.scales}")
        scores = score(make_tagger(checkpoint, variant), signals, checkpoint.architecture.window_samples)
        expected = scores if expected is None else expected
        found.append(
            Accuracy(
                variant=variant,
                macro_map=macro_map(scores, clips),
                top_1=top_1(scores, clips),
                difference=float(np.abs(scores - expected).max()),
                agreement=float(np.mean(scores.argmax(axis=1) == expected.argmax(axis=1))),
            )
        )
    return found


def to_markdown(found: list[Accuracy]) -> str:
    """Return the table."""
    lines = [
        "| products in float8 (e4m3) | scales | macro mAP | lost | top-1 | same best label | largest difference of a score | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in found:
        lost = found[0].macro_map - row.macro_map
        verdict = "" if row is found[0] else "holds" if lost <= MAX_MAP_LOSS else "out"
        lines.append(
            f"| {row.variant.name} | {row.variant.scales} | {row.macro_map:.4f} | {lost:+.4f} | {row.top_1:.4f} "
            f"| {row.agreement:.4f} | {row.difference:.3f} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.fp8", description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", default=str(CHECKPOINT), help="(that of the embedded bundle)")
    parser.add_argument("--clips", type=Path, default=FOLDERS[0], metavar="FOLDER", help="sounds with clips.csv (ESC-50)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    try:
        checkpoint = load_checkpoint(args.checkpoint)
        clips = read_clips(args.clips, checkpoint.labels)
    except ExportError as error:
        print(f"bench.fp8: {error}", file=sys.stderr)
        return exit_codes.FAILURE
    print(to_markdown(measure_accuracy(checkpoint, clips, lambda name: print(name, file=sys.stderr, flush=True))), end="")
    return exit_codes.OK


if __name__ == "__main__":
    sys.exit(main())
