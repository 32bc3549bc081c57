"""The model under test: an AST of random weights, exported with every check of an export, on the device.

`python -m bench.gpu.subject` makes it, in the folder where the parts that measure find it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

# After torch, which has loaded CUDA's libraries.
from export.pipeline import Request, export_bundle  # isort: skip

from bench.contestants import Device
from bench.gpu.settings import SIZES, add_flags
from service import exit_codes
from service.inference.bound_run import BoundSession
from service.inference.bundle import Bundle, open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import create_session
from service.inference.runner import Int16Array, Int64Array, Precision

_SIZES: Final = dict(zip(SIZES, ((768, 12, 12), (384, 12, 6), (192, 12, 3), (64, 2, 2)), strict=True))
"""Hidden size, layers, heads."""
NUM_LABELS: Final = 527


@dataclass(frozen=True, slots=True)
class Subject:
    """The model under test, on a device.

    Attributes:
        device: Where.
        size: Which of `bench.gpu.settings.SIZES`.
        folder: Of its files.
        batches: Batch sizes, in the order in which they are measured.
    """

    device: Device
    size: str
    folder: Path
    batches: tuple[int, ...]

    @property
    def precision(self) -> Precision:
        """What it runs in."""
        return "fp16" if self.device == "cuda" else "fp32"

    @property
    def source(self) -> Path:
        """The checkpoint."""
        return self.folder / "checkpoint"

    @property
    def bundle_folder(self) -> Path:
        """What was exported of it."""
        return self.folder / "bundle"

    @property
    def bundle(self) -> Bundle:
        """The same, opened."""
        return open_bundle(self.bundle_folder)

    def windows(self, rows: int) -> tuple[Int16Array, Int64Array]:
        """Return golden windows of the bundle, round and round: `[rows, samples]` and `[rows]`."""
        golden = self.bundle.load_golden()
        places = np.arange(rows) % len(golden.lengths)
        return np.ascontiguousarray(golden.waveform[places]), golden.lengths[places]

    def expected(self, rows: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Return the scores of these windows, by transformers in float32."""
        golden = self.bundle.load_golden()
        return golden.scores[np.arange(rows) % len(golden.lengths)]

    @property
    def tolerance(self) -> float:
        """How far a score may be from them."""
        return self.bundle.manifest.precisions[self.precision].golden_tolerance

    def bind(self, *, graphs: bool) -> BoundSession:
        """Open the model with bound buffers for every batch size, in the calling thread."""
        runner = OnnxRunner.open(self.bundle, provider=self.device, precision=self.precision)
        spec = dataclasses.replace(runner.spec, batch_sizes=tuple(sorted(self.batches)))
        runner.close()
        model = str(self.bundle.model_path(self.precision))
        session = create_session(model, self.device, num_threads=1, cuda_graphs=graphs)
        return BoundSession(session, spec, self.device, max_graph_rows=max(self.batches) if graphs else 0)


def read_subject(args: argparse.Namespace) -> Subject:
    """Return what the flags of `bench.gpu.settings` say."""
    return Subject(args.device, args.size, args.folder, args.batches)


def make_checkpoint(folder: Path, size: str) -> None:
    """Write an AST of random weights as transformers does, with biases that matter."""
    hidden, layers, heads = _SIZES[size]
    stride, max_length = (16, 112) if size == "smallest" else (10, 1024)
    labels = {index: f"label {index}" for index in range(NUM_LABELS)}
    config = ASTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        frequency_stride=stride,
        time_stride=stride,
        max_length=max_length,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
        problem_type="multi_label_classification",
    )
    torch.manual_seed(7)
    model = ASTForAudioClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "position" in name or "token" in name:
                parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    ASTFeatureExtractor(max_length=max_length).save_pretrained(folder)


def make_subject(subject: Subject) -> dict[str, object]:
    """Write the checkpoint and its bundle, and return what is known of them.

    Raises:
        ExportError: The graph does not compute there what transformers computes.
    """
    started = time.perf_counter()
    make_checkpoint(subject.source, subject.size)
    request = Request(str(subject.source), subject.bundle_folder, name=subject.size, precisions=(subject.precision,))
    manifest = export_bundle(request, stage=lambda stage: print(f"export: {stage}", file=sys.stderr, flush=True))
    parity = manifest.precisions[subject.precision].parity
    return {
        "device": subject.device,
        "device_name": torch.cuda.get_device_name(0) if subject.device == "cuda" else platform.processor(),
        "size": subject.size,
        "precision": subject.precision,
        "torch": torch.__version__,
        "seconds": time.perf_counter() - started,
        "checked_on": parity.provider,
        "logits_off_by": max(check.measured for check in parity.checks if check.check == "logits"),
    }


def main() -> int:
    """Make it."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.subject", description=__doc__)
    add_flags(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    made = make_subject(read_subject(args))
    args.output.write_text(json.dumps(made, indent=2) + "\n")
    off = cast(float, made["logits_off_by"])
    print(
        f"{made['size']} in {made['precision']}, exported in {made['seconds']:.0f} s and checked on {made['checked_on']}: "
        f"logits off by {off:.2g} at most"
    )
    return exit_codes.OK


if __name__ == "__main__":
    sys.exit(main())
