"""The arguments of ``python -m export``, its progress display, and its exit codes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from export.errors import ExportError
from service.inference.runner import Precision

_MODEL_SIZES = ("tiny224", "small224", "base224", "base384")


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: What follows the program's name. ``init`` as the first word makes a checkpoint; anything else exports one.

    Returns:
        The exit code: 0, or that of the error, whose one line is on standard error (see `export.errors`).
    """
    run: Callable[[argparse.Namespace], None]
    if arguments and arguments[0] == "init":
        run, options = _init, _init_parser().parse_args(arguments[1:])
    else:
        run, options = _export, _export_parser().parse_args(arguments)
    try:
        run(options)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _precisions(text: str) -> tuple[Precision, ...]:
    known: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}
    try:
        return tuple(dict.fromkeys(known[name] for name in text.split(",")))
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"{error} is none of {', '.join(known)}, separated by commas") from None


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600")
    return value


def _seconds_list(text: str) -> tuple[float, ...]:
    return tuple(sorted({_positive(part) for part in text.split(",")}))


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value < 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 99999")
    return value


def _bundle_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not up to 100 letters, digits, dots, dashes and underscores")
    return text


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sonotag export",
        description="Export an Audio Spectrogram Transformer to a bundle that Sonotag serves. "
        "`sonotag export init --help` is about making a checkpoint to fine-tune.",
    )
    parser.add_argument(
        "checkpoint", help="folder in Hugging Face's format, a name on its hub, or the original repository's .pth"
    )
    parser.add_argument(
        "out", type=Path, help="the bundle's folder; an existing bundle is replaced once the new one is checked"
    )
    parser.add_argument("--name", type=_bundle_name, help="the bundle's name (default: the checkpoint's)")
    parser.add_argument(
        "--precision",
        type=_precisions,
        metavar="NAMES",
        default=("fp32", "fp16"),
        help="which graphs, of fp32,fp16,int8 (default: fp32, which serves CPUs, and fp16, which serves GPUs)",
    )
    parser.add_argument(
        "--window", type=_positive, metavar="SECONDS", help="another window: positions are cropped in the middle or stretched"
    )
    parser.add_argument(
        "--short-windows",
        type=_seconds_list,
        metavar="SECONDS",
        default=(),
        help="shorter windows that cost less, such as 1,2: the same graph takes them, with the middle of its positions; with "
        "--eval they must be as often right as the long window that is padded",
    )
    parser.add_argument(
        "--hop", type=_positive, metavar="SECONDS", default=1.0, help="hop of callers who name none (default: 1)"
    )
    parser.add_argument("--portable", action="store_true", help="standard operators only (opset 23), for other runtimes")
    parser.add_argument(
        "--eval",
        type=Path,
        metavar="FOLDER",
        help="labelled clips (with clips.csv) on which int8 must agree with float32 and short windows be right",
    )
    parser.add_argument("--licence", help="licence of the weights (default: what the checkpoint's card names)")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="label names: one a line, JSON, or CSV with display_name")
    parser.add_argument(
        "--activation",
        choices=("sigmoid", "softmax"),
        help="what makes scores of logits (default: by the configuration's problem_type; without one, sigmoid for "
        "AudioSet's labels and softmax for any other list)",
    )
    parser.add_argument("--mean", type=float, help="mean of the log-mel in training (default: the checkpoint's, or AudioSet's)")
    parser.add_argument("--std", type=_positive, help="its standard deviation")
    parser.add_argument(
        "--stride", type=_count, nargs=2, metavar=("F", "T"), help="strides of a .pth whose size does not tell them"
    )
    parser.add_argument("--max-length", type=_count, metavar="FRAMES", help="frames of a .pth whose size does not tell them")
    return parser


def _export(options: argparse.Namespace) -> None:
    with _progress(Console(stderr=True)) as progress:
        task = progress.add_task("loading torch", total=None)
        from export.checkpoint import Wishes  # torch and transformers take seconds: the display is up first
        from export.pipeline import Request, export_bundle
        from export.report import print_report

        request = Request(
            source=options.checkpoint,
            target=options.out,
            precisions=options.precision,
            name=options.name,
            window_seconds=options.window,
            short_windows_seconds=options.short_windows,
            hop_seconds=options.hop,
            operators="portable" if options.portable else "fused",
            eval_folder=options.eval,
            wishes=Wishes(
                labels=options.labels,
                activation=options.activation,
                stride=tuple(options.stride) if options.stride else None,
                max_length=options.max_length,
                mean=options.mean,
                std=options.std,
                licence=options.licence,
            ),
        )
        progress.update(task, total=request.num_stages)
        begun: list[str] = []

        def begin(stage: str) -> None:
            progress.update(task, description=stage, completed=len(begun))
            begun.append(stage)

        def tell(detail: str) -> None:
            progress.update(task, description=f"{begun[-1]}, {detail}")

        manifest = export_bundle(request, begin, tell)
        progress.update(task, description="done", completed=request.num_stages)
    print_report(manifest, Console())
    print(f"{options.out}: bundle {manifest.name!r}, {', '.join(manifest.precisions)}")


def _init_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sonotag export init",
        description="Make an AST checkpoint, ready for fine-tuning, from the ImageNet weights of a ViT or DeiT (timm's names).",
    )
    parser.add_argument("out", type=Path, help="the checkpoint's folder, in Hugging Face's format")
    parser.add_argument(
        "--size", choices=_MODEL_SIZES, required=True, help="width, and side of the images of the ImageNet weights"
    )
    parser.add_argument(
        "--vit", type=Path, required=True, metavar="FILE", help="the ImageNet weights: safetensors, .bin or .pth"
    )
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="FILE", help="the new head's labels: one a line, JSON or CSV"
    )
    parser.add_argument(
        "--stride", type=_count, nargs=2, metavar=("F", "T"), default=(10, 10), help="patch strides (default: 10 10)"
    )
    parser.add_argument("--max-length", type=_count, default=1024, metavar="FRAMES", help="frames of the input (default: 1024)")
    parser.add_argument(
        "--activation", choices=("sigmoid", "softmax"), help="sigmoid for several labels a clip, softmax for one"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the new head's random weights (default: 0)")
    return parser


def _init(options: argparse.Namespace) -> None:
    with _progress(Console(stderr=True)) as progress:
        progress.add_task("making the checkpoint", total=None)
        from export.init import InitRequest, init_checkpoint

        made = init_checkpoint(
            InitRequest(
                size=options.size,
                vit=options.vit,
                labels=options.labels,
                target=options.out,
                stride=tuple(options.stride),
                max_length=options.max_length,
                activation=options.activation,
                seed=options.seed,
            )
        )
    estimate = made.architecture.num_encoder_weights
    print(f"{options.out}: {made.num_parameters:,} parameters (12·L·d² = {estimate:,} in the encoder's products)")


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
