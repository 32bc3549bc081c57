"""The comparison of models: who takes part, every batch size, one report."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from bench.clips import find_folder, first_rows, read_batch
from bench.compiled import Trial, make_compiled
from bench.contestants import Absent, Contestant, Device, Facts, Scores
from bench.ours import open_own
from bench.race import Race, Tell, run_race
from bench.transformers_peers import extract, logits_of, make_eager, make_network
from bench.work import Product, Work, count_work
from export.checkpoint import Checkpoint, load_checkpoint
from export.reference import make_extractor
from export.signals import Batch
from service.machine import count_usable_cores, read_processor_name

BATCHES = (1, 2, 4, 8, 16, 32, 64)
REFERENCE_BATCH = 8
_VERSIONS = ("sonotag", "onnxruntime-gpu", "onnxruntime", "torch", "transformers", "openvino", "ai-edge-litert")
PEERS = ("eager", "compile", "openvino", "yamnet")


@dataclass(frozen=True, slots=True)
class Request:
    """What to compare.

    Attributes:
        device: Where; OpenVINO and YAMNet run on the CPU only and stay away from a GPU's race.
        bundles: Of our runner: every precision that they list for the device takes part.
        checkpoint: What they were exported from: a folder, a ``.pth`` or a name on the hub.
        batches: Windows at a time, rising.
        rounds: How often each is measured at each batch size, at least.
        lasting: Seconds for each batch size in which other rounds are begun.
        clips: A folder of sounds; None for ESC-50 where it is there, else the examples.
        yamnet: The ``.tflite`` file; None leaves it out.
        peers: Who takes part beside our runner, of `PEERS`.
    """

    device: Device
    bundles: tuple[Path, ...]
    checkpoint: str
    batches: tuple[int, ...] = BATCHES
    rounds: int = 5
    lasting: float = 20.0
    clips: Path | None = None
    yamnet: Path | None = None
    peers: tuple[str, ...] = PEERS


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What was measured.

    Attributes:
        measured_at: When it began.
        device: Where: the processor or the GPU, by name.
        kind: `cpu` or `cuda`.
        cores: Of the processor, that may be used.
        versions: Of the libraries.
        checkpoint: Its name.
        window_seconds: Of a window.
        work: Of a window.
        product_size: Side of the matrices of the large product.
        product_type: Of its numbers.
        clips: The name of the folder.
        rounds: Measurements of each, at least.
        facts: Who took part, in the order of the tables.
        absent: Who did not, and why.
        trials: How torch.compile was tried.
        races: One for each batch size.
    """

    measured_at: datetime
    device: str
    kind: Device
    cores: int
    versions: dict[str, str]
    checkpoint: str
    window_seconds: float
    work: Work
    product_size: int
    product_type: str
    clips: str
    rounds: int
    facts: tuple[Facts, ...]
    absent: tuple[Absent, ...]
    trials: tuple[Trial, ...]
    races: tuple[Race, ...] = field(default=())

    def to_document(self) -> dict[str, object]:
        """Return it ready for JSON."""
        return {"type": "model"} | asdict(self) | {"measured_at": self.measured_at.isoformat()}


def run_model_benchmark(request: Request, tell: Tell = lambda _: None) -> ModelReport:
    """Compare on the same windows, in one run, round after round. Minutes, on a CPU with large batches many of them.

    Args:
        request: What to compare.
        tell: Is told what is being done.

    Raises:
        SonotagError: A bundle, the checkpoint or the sounds cannot be read.
    """
    began = datetime.now(UTC).replace(microsecond=0)
    torch.set_num_threads(count_usable_cores())
    tell("reading the checkpoint")
    checkpoint = load_checkpoint(request.checkpoint)
    folder = find_folder(request.clips)
    batch = read_batch(folder, checkpoint.architecture.window_samples, max(request.batches))
    tell("scoring the windows with transformers in float32")
    expected = score_reference(checkpoint, request.device, batch)
    contestants, absent, trials = gather(request, checkpoint, batch, tell)
    product = Product(request.device)
    races = [
        run_race(contestants, first_rows(batch, size), expected[:size], product, request.rounds, tell, lasting=request.lasting)
        for size in request.batches
    ]
    return ModelReport(
        measured_at=began,
        device=torch.cuda.get_device_name() if request.device == "cuda" else read_processor_name(),
        kind=request.device,
        cores=count_usable_cores(),
        versions={name: version for name in _VERSIONS if (version := _version_of(name))},
        checkpoint=checkpoint.name,
        window_seconds=checkpoint.architecture.window_samples / 16_000,
        work=count_work(checkpoint.architecture),
        product_size=product.size,
        product_type=str(product.dtype).removeprefix("torch."),
        clips=folder.name,
        rounds=request.rounds,
        facts=tuple(contestant.facts for contestant in contestants),
        absent=tuple(absent),
        trials=trials,
        races=tuple(races),
    )


def gather(
    request: Request, checkpoint: Checkpoint, batch: Batch, tell: Tell
) -> tuple[list[Contestant], list[Absent], tuple[Trial, ...]]:
    """Return who takes part, who does not, and how torch.compile was tried."""
    found: list[Contestant | Absent] = []
    trials: tuple[Trial, ...] = ()
    tell("opening the bundles")
    found += open_own(request.bundles, request.device)
    if "eager" in request.peers:
        tell("opening transformers")
        found += make_eager(checkpoint, request.device)
    if "compile" in request.peers:
        tell("trying the ways of torch.compile")
        compiled, trials = make_compiled(
            checkpoint, request.device, first_rows(batch, min(REFERENCE_BATCH, len(batch.lengths)))
        )
        found.append(compiled)
    found += open_cpu_peers(request, checkpoint, tell)
    contestants = [one for one in found if not isinstance(one, Absent)]
    return contestants, [one for one in found if isinstance(one, Absent)], trials


def open_cpu_peers(request: Request, checkpoint: Checkpoint, tell: Tell) -> Iterator[Contestant | Absent]:
    """Yield OpenVINO and YAMNet, where they are wanted and installed; their libraries are loaded only then."""

    def open_openvino() -> Contestant:
        from bench.openvino_peer import OpenVinoPeer

        return OpenVinoPeer(checkpoint)

    def open_yamnet() -> Contestant:
        from bench.yamnet_peer import YamnetPeer

        assert request.yamnet is not None
        return YamnetPeer(request.yamnet)

    openers: dict[str, tuple[str, str, Callable[[], Contestant]]] = {
        "openvino": ("OpenVINO fp32", "openvino", open_openvino),
        "yamnet": ("YAMNet (TFLite)", "ai_edge_litert", open_yamnet),
    }
    for peer, (name, module, opener) in openers.items():
        if peer not in request.peers:
            continue
        if request.device != "cpu":
            yield Absent(name, "it runs on the CPU")
        elif importlib.util.find_spec(module) is None:
            yield Absent(name, f"{module} is not installed (the extra bench)")
        elif peer == "yamnet" and request.yamnet is None:
            yield Absent(name, "no file was given (--yamnet)")
        else:
            tell(f"opening {name}")
            yield opener()


def score_reference(checkpoint: Checkpoint, device: Device, batch: Batch) -> Scores:
    """Return the scores of transformers in float32: what everybody's are compared with."""
    network = logits_of(make_network(checkpoint, device, torch.float32, "sdpa"))
    extractor = make_extractor(checkpoint)
    logits = []
    with torch.inference_mode():
        for first in range(0, len(batch.lengths), REFERENCE_BATCH):
            part = Batch(batch.waveform[first : first + REFERENCE_BATCH], batch.lengths[first : first + REFERENCE_BATCH])
            logits.append(network(torch.from_numpy(extract(extractor, part)).to(device)).float().cpu())
    together = torch.cat(logits)
    scores = torch.softmax(together, dim=1) if checkpoint.activation == "softmax" else torch.sigmoid(together)
    return np.asarray(scores.numpy(), np.float32)


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
