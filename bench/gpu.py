"""Everything that has to be measured on a GPU, in one command: `python -m bench.gpu`.

It needs Python 3.11 or newer, torch with CUDA, transformers, onnx, onnxscript, onnxruntime-gpu, numpy, pydantic, soundfile and
nvidia-ml-py, and no web framework, so that it also runs on a borrowed machine that is offline. It makes an AST of random
weights, exports it with every check of an export, on the GPU, and measures it beside transformers and a large matrix product.
What it cannot measure says so. On a machine without a GPU `--device cpu --size smallest --seconds 0.05 --batches 1,2` goes
through the same steps; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
import transformers
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

# After torch, which has loaded CUDA's libraries.
import onnxruntime  # isort: skip

from export.checkpoint import load_checkpoint
from export.pipeline import Request, export_bundle
from export.reference import load_model, make_extractor
from service.gpus import GpuReader
from service.inference.bound_run import BoundSession
from service.inference.bundle import Bundle, open_bundle
from service.inference.onnx_runner import OnnxRunner
from service.inference.providers import create_session

SIZES: Final = {"base": (768, 12, 12), "small": (384, 12, 6), "tiny": (192, 12, 3), "smallest": (64, 2, 2)}
"""Hidden size, layers, heads."""
NUM_LABELS: Final = 527
BLOCKS: Final = 5
"""Each number is the median of so many blocks, with the least and the most."""
MATRIX: Final = {"cuda": 8192, "cpu": 1024}
UNMEASURED: Final = "unmeasured"


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of something in a second: the median of several blocks, the least and the most."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:,.1f} ({self.least:,.1f} to {self.most:,.1f})"


@dataclass(slots=True)
class Results:
    """What was measured, by name; what failed, with its reason."""

    rates: dict[str, Rate] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def ratio(self, above: str, below: str) -> float | None:
        """Return how many times one rate is another, or None where either is missing."""
        if above in self.rates and below in self.rates:
            return self.rates[above].median / self.rates[below].median
        return None

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Go on where one measurement fails, and say why: the rest of a borrowed hour is worth having."""
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            yield
        except Exception as error:  # noqa: BLE001  (torch, transformers and onnxruntime share no class of errors)
            self.notes[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]


def measure(run: Callable[[], object], amount: float, seconds: float, wait: Callable[[], None] = lambda: None) -> Rate:
    """Return how much a second a call does, in blocks of about so many seconds, after one call that is not counted."""
    run()
    wait()
    started = time.perf_counter()
    run()
    wait()
    calls = max(1, round(seconds / max(time.perf_counter() - started, 1e-6)))
    rates = []
    for _ in range(BLOCKS):
        started = time.perf_counter()
        for _ in range(calls):
            run()
        wait()
        rates.append(calls * amount / (time.perf_counter() - started))
    return Rate(statistics.median(rates), min(rates), max(rates))


@dataclass(frozen=True, slots=True)
class Subject:
    """The model under test, on a device.

    Attributes:
        device: ``cuda`` or ``cpu``.
        precision: What it runs in there.
        source: The checkpoint's folder.
        bundle: The exported bundle.
        batches: Batch sizes.
        seconds: Length of a block.
    """

    device: str
    precision: str
    source: Path
    bundle: Bundle
    batches: tuple[int, ...]
    seconds: float

    def clips(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        golden = self.bundle.load_golden()
        places = np.arange(rows) % len(golden.lengths)
        return np.ascontiguousarray(golden.waveform[places]), golden.lengths[places]

    def bind(self, *, graphs: bool) -> BoundSession:
        """Open the model with bound buffers for every batch size, in the calling thread."""
        model = str(self.bundle.model_path(self.precision))  # type: ignore[arg-type]
        runner = OnnxRunner.open(self.bundle, provider=self.device, precision=self.precision)  # type: ignore[arg-type]
        spec = dataclasses.replace(runner.spec, batch_sizes=self.batches)
        runner.close()
        session = create_session(model, self.device, num_threads=1, cuda_graphs=graphs)  # type: ignore[arg-type]
        return BoundSession(session, spec, self.device, max_graph_rows=self.batches[-1] if graphs else 0)  # type: ignore[arg-type]


def make_checkpoint(folder: Path, size: str, max_length: int) -> None:
    """Write an AST of random weights as transformers does, with biases that matter."""
    hidden, layers, heads = SIZES[size]
    stride = 16 if size == "smallest" else 10
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


def count_flops(bundle: Bundle) -> float:
    """Return the floating point operations of one window: products of the encoder, attention, patches, front end."""
    net = bundle.manifest.architecture
    grid = ((net.num_mel_bins - net.patch_size) // net.frequency_stride + 1) * (
        (net.max_length - net.patch_size) // net.time_stride + 1
    )
    tokens, hidden, layers = grid + 2, net.hidden_size, net.num_layers
    linear = 2.0 * tokens * layers * (4 * hidden**2 + 2 * hidden * net.mlp_size)
    attention = 4.0 * tokens**2 * hidden * layers
    patches = 2.0 * grid * net.patch_size**2 * hidden
    front_end = 2.0 * net.max_length * (480 * 512 + 256 * net.num_mel_bins)
    return linear + attention + patches + front_end


def measure_ours(subject: Subject, results: Results) -> None:
    """Time the exported graph, waveforms in host memory in, scores in host memory out: plain, bound, with CUDA graphs."""
    with results.attempt("plain session"):
        runner = OnnxRunner.open(subject.bundle, provider=subject.device, precision=subject.precision)  # type: ignore[arg-type]
        for rows in subject.batches:
            waveform, lengths = subject.clips(rows)
            run = lambda w=waveform, n=lengths: runner.run(w, n, embedding=False)  # noqa: E731
            results.rates[f"plain {rows}"] = measure(run, rows, subject.seconds)
        runner.close()
    for name, graphs in (("bound", False), ("graph", True)):
        if graphs and subject.device == "cpu":
            results.notes["graph"] = "CUDA graphs need a GPU"
            continue
        with results.attempt(name):
            bound = subject.bind(graphs=graphs)
            for rows in subject.batches:
                waveform, lengths = subject.clips(rows)
                check_scores(subject, bound, rows)
                run = lambda w=waveform, n=lengths, b=bound: b.run(w, n, embedding=False)  # noqa: E731
                results.rates[f"{name} {rows}"] = measure(run, rows, subject.seconds)
            del bound


def check_scores(subject: Subject, bound: BoundSession, rows: int) -> None:
    """Stop a measurement of wrong answers."""
    golden = subject.bundle.load_golden()
    expected = golden.scores[np.arange(rows) % len(golden.lengths)]
    tolerance = subject.bundle.manifest.precisions[subject.precision].golden_tolerance  # type: ignore[index]
    for _ in range(2):  # captured, replayed
        worst = float(np.abs(bound.run(*subject.clips(rows), embedding=False).scores - expected).max())
        if not worst <= tolerance:
            raise ArithmeticError(f"batch of {rows}: a score is off by {worst:.3g}, allowed is {tolerance:g}")


def measure_lanes(subject: Subject, results: Results) -> None:
    """Time two threads, each with a session of its own, which is how the service runs a GPU."""
    with results.attempt("two lanes"):
        lanes = [subject.bind(graphs=False) for _ in range(2)]
        for rows in subject.batches:
            results.rates[f"two lanes {rows}"] = measure(
                lambda rows=rows: run_beside(subject, lanes, rows), 8 * rows, subject.seconds
            )


def run_beside(subject: Subject, lanes: list[BoundSession], rows: int) -> None:
    """Run four batches in each lane at once."""
    waveform, lengths = subject.clips(rows)

    def work(lane: BoundSession) -> None:
        for _ in range(4):
            lane.run(waveform, lengths, embedding=False)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure_peers(subject: Subject, results: Results) -> None:
    """Time transformers, eager with SDPA: features not counted, and as a user calls it; and a large matrix product."""
    kind = torch.float16 if subject.device == "cuda" else torch.float32
    wait = torch.cuda.synchronize if subject.device == "cuda" else (lambda: None)
    with torch.inference_mode():
        with results.attempt("matrix product"):
            side = MATRIX[subject.device]
            a, b = (torch.randn(side, side, device=subject.device, dtype=kind) for _ in range(2))
            results.rates["matrix product, TFLOP/s"] = measure(lambda a=a, b=b: a @ b, 2e-12 * side**3, subject.seconds, wait)
        checkpoint = load_checkpoint(str(subject.source))
        model = load_model(checkpoint).eval().to(subject.device, kind)
        extract = make_extractor(checkpoint)
        for rows in subject.batches:
            waveform, _ = subject.clips(rows)
            sounds = [row.astype(np.float32) / 32_768 for row in waveform]

            def features(sounds: list[np.ndarray] = sounds) -> torch.Tensor:
                made = extract(sounds, sampling_rate=16_000, return_tensors="pt")
                return made["input_values"].to(subject.device, kind)

            with results.attempt(f"transformers {rows}"):
                ready = features()
                results.rates[f"transformers {rows}"] = measure(lambda x=ready: model(x).logits, rows, subject.seconds, wait)
            with results.attempt(f"with features {rows}"):
                run = lambda f=features: torch.sigmoid(model(f()).logits).cpu()  # noqa: E731
                results.rates[f"transformers with features {rows}"] = measure(run, rows, subject.seconds)


def measure_memory(subject: Subject, results: Results) -> None:
    """Run batches of mixed sizes and tell whether the GPU's memory grew after every size had run."""
    with results.attempt("memory"):
        bound = subject.bind(graphs=False)
        batches = [subject.clips(rows) for rows in subject.batches]
        for waveform, lengths in batches:
            bound.run(waveform, lengths, embedding=True)
        reader = GpuReader()
        before = [reading.used_bytes for reading in reader.read()]
        order = np.random.default_rng(3).integers(0, len(batches), max(10, round(40 * subject.seconds)))
        for place in order:
            bound.run(*batches[place], embedding=bool(place % 2))
        after = [reading.used_bytes for reading in reader.read()]
        if subject.device == "cuda" and before and None not in (before[0], after[0]):
            grown = (after[0] - before[0]) / 2**20  # type: ignore[operator]
            results.notes["memory growth over mixed batches"] = f"{grown:+.1f} MiB over {len(order)} runs"
        else:
            results.notes["memory growth over mixed batches"] = UNMEASURED


def measure_processes(subject: Subject, results: Results, folder: Path) -> None:
    """Time several processes on one device, each with its own session, by what they do in the same stretch of time."""
    rows = min(8, subject.batches[-1])
    for num_processes in (1, 2, 4) if subject.device == "cuda" else (1, 2):
        with results.attempt(f"{num_processes} processes"):
            command = [sys.executable, "-m", "bench.gpu", "--worker", str(folder), "--device", subject.device]
            command += ["--batches", str(rows), "--seconds", str(BLOCKS * subject.seconds)]
            children = [
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(num_processes)
            ]
            try:
                for child in children:
                    assert child.stdout is not None
                    assert child.stdout.readline() == "ready\n"
                for child in children:
                    assert child.stdin is not None
                    child.stdin.write("go\n")
                    child.stdin.flush()
                total = sum(float(child.communicate(timeout=300)[0]) for child in children)
            finally:
                for child in children:
                    child.kill()
                    child.wait()
            results.rates[f"{num_processes} processes, batch {rows}"] = Rate(total, total, total)


def work(folder: Path, device: str, rows: int, seconds: float) -> None:
    """Be one of several processes: get ready, wait for the word, say how many windows a second were scored."""
    subject = Subject(device, precision_on(device), folder, open_bundle(folder / "bundle"), (rows,), seconds)
    bound = subject.bind(graphs=False)
    waveform, lengths = subject.clips(rows)
    bound.run(waveform, lengths, embedding=False)
    print("ready", flush=True)
    sys.stdin.readline()
    started, runs = time.perf_counter(), 0
    while (taken := time.perf_counter() - started) < seconds or not runs:
        bound.run(waveform, lengths, embedding=False)
        runs += 1
    print(runs * rows / max(taken, 1e-9))


def profile_kernels(subject: Subject, results: Results) -> list[tuple[str, float]]:
    """Return the kernels of the largest batch with their milliseconds a run, the longest first."""
    if subject.device != "cuda":
        return []
    with results.attempt("kernels"):
        bound, rows, runs = subject.bind(graphs=False), min(32, subject.batches[-1]), 5
        batch = subject.clips(rows)
        bound.run(*batch, embedding=False)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(runs):
                bound.run(*batch, embedding=False)
            torch.cuda.synchronize()
        found = [(event.key[:90], event.self_device_time_total / 1e3 / runs) for event in profile.key_averages()]
        return sorted(found, key=lambda kernel: -kernel[1])[:25]
    return []


def goals(subject: Subject, results: Results, size: str) -> list[tuple[str, str, str]]:
    """Return the goals with what was reached: the name, the goal, the measurement."""
    is_right = subject.device == "cuda" and size == "base"
    best = {rows: pick_best(results, rows) for rows in subject.batches}

    def against(rows: int, peer: str) -> str:
        name = best.get(rows)
        ratio = results.ratio(name, f"{peer} {rows}") if name else None
        return UNMEASURED if ratio is None or not is_right else f"{ratio:.2f} times ({name})"

    fraction = UNMEASURED
    if is_right and best.get(32) and "matrix product, TFLOP/s" in results.rates:
        tera = results.rates[best[32]].median * count_flops(subject.bundle) / 1e12  # type: ignore[index]
        fraction = f"{tera / results.rates['matrix product, TFLOP/s'].median:.2f} ({tera:.0f} TFLOP/s)"
    return [
        (
            "base, batch 32, against transformers eager fp16, features not counted",
            "1.12; stretch 1.35",
            against(32, "transformers"),
        ),
        ("the same, batch 1", "6", against(1, "transformers")),
        ("against transformers with its features, batch 32", "10", against(32, "transformers with features")),
        ("fraction of a large matrix product's rate, batch 32", "0.55; stretch 0.66", fraction),
        ("service throughput over bare runner throughput", "0.90", UNMEASURED),
        ("live streams of base at hop 1 s, p99 lag under 500 ms", "1,000", UNMEASURED),
        ("tiny on two CPU cores against transformers, features not counted", "2", UNMEASURED),
        ("live streams of the default at hop 1 s on two cores", "24", UNMEASURED),
        ("memory for each idle and each live stream", "0.2 MB, 1 MB", UNMEASURED),
        ("cost of one more stream from 10 to 1,000", "within 10 %", UNMEASURED),
    ]


def pick_best(results: Results, rows: int) -> str | None:
    """Return the fastest of our ways to run a batch size."""
    names = [name for way in ("plain", "bound", "graph", "two lanes") if (name := f"{way} {rows}") in results.rates]
    return max(names, key=lambda name: results.rates[name].median, default=None)


def write_report(subject: Subject, results: Results, kernels: list[tuple[str, float]], size: str) -> str:
    """Return everything as Markdown."""
    device = torch.cuda.get_device_name(0) if subject.device == "cuda" else platform.processor() or platform.machine()
    lines = [f"# {size} on {device}, {subject.precision}", ""]
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    lines += [versions, "", "| goal | to reach | measured |", "|---|---|---|"]
    lines += [f"| {name} | {goal} | {measured} |" for name, goal, measured in goals(subject, results, size)]
    lines += ["", "| windows a second, batch | " + " | ".join(map(str, subject.batches)) + " |"]
    lines += ["|---|" + "---|" * len(subject.batches)]
    ways = ("plain", "bound", "graph", "two lanes", "transformers", "transformers with features")
    for way in ways:
        cells = [str(results.rates.get(f"{way} {rows}", UNMEASURED)) for rows in subject.batches]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    rest = {name: rate for name, rate in results.rates.items() if not name.startswith(ways)}
    lines += ["", *(f"- {name}: {rate}" for name, rate in rest.items())]
    lines += [f"- {name}: {note}" for name, note in results.notes.items()]
    if kernels:
        lines += ["", "| kernel | ms a run |", "|---|---|", *(f"| `{name}` | {taken:.3f} |" for name, taken in kernels)]
    return "\n".join(lines) + "\n"


def precision_on(device: str) -> str:
    return "fp16" if device == "cuda" else "fp32"


def run_all(args: argparse.Namespace, folder: Path) -> str:
    """Export, measure, and write the report and its JSON."""
    results = Results()
    batches = tuple(int(part) for part in args.batches.split(","))
    make_checkpoint(folder / "checkpoint", args.size, 96 if args.size == "smallest" else 1024)
    started = time.perf_counter()
    request = Request(str(folder / "checkpoint"), folder / "bundle", precisions=(precision_on(args.device),))  # type: ignore[arg-type]
    manifest = export_bundle(request, stage=lambda stage: print(f"export: {stage}", file=sys.stderr, flush=True))
    entry = manifest.precisions[precision_on(args.device)]  # type: ignore[index]
    logits = max(check.measured for check in entry.parity.checks if check.check == "logits")
    results.notes["export"] = (
        f"{time.perf_counter() - started:.0f} s, checked on {entry.parity.provider}; logits off by {logits:.2g} at most"
    )
    subject = Subject(
        args.device, precision_on(args.device), folder / "checkpoint", open_bundle(folder / "bundle"), batches, args.seconds
    )
    measure_ours(subject, results)
    measure_lanes(subject, results)
    measure_peers(subject, results)
    measure_memory(subject, results)
    measure_processes(subject, results, folder)
    report = write_report(subject, results, profile_kernels(subject, results), args.size)
    args.out.mkdir(parents=True, exist_ok=True)
    rates = {name: dataclasses.asdict(rate) for name, rate in results.rates.items()}
    (args.out / "gpu.json").write_text(json.dumps({"rates": rates, "notes": results.notes}, indent=1))
    (args.out / "gpu.md").write_text(report)
    return report


def main() -> int:
    """Measure and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64", help="batch sizes, rising, with commas between them")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long one block of a measurement takes")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where gpu.md and gpu.json are written")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here; --device cpu --size tiny tries the steps without one", file=sys.stderr)
        return 3
    if args.worker:
        work(args.worker, args.device, int(args.batches), args.seconds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        print(run_all(args, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
