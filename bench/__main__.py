"""`python -m bench`: our runner against transformers, torch.compile, OpenVINO and YAMNet, on the same sounds in one run."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from bench.clips import REPOSITORY
from bench.model import BATCHES, PEERS, Request, run_model_benchmark
from bench.report import MARKDOWN_FILE, to_markdown, write_report
from export.errors import ExportError
from service import exit_codes
from service.errors import SonotagError, StartError
from service.inference.providers import find_obstacle
from service.settings import EMBEDDED_BUNDLE

CHECKPOINT = REPOSITORY / "export" / "checkpoints" / "ast-tiny-16-16-5s"
YAMNET = REPOSITORY.parent / "shared" / "peers" / "yamnet" / "yamnet.tflite"
OUTPUT = REPOSITORY / "build" / "bench"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto takes a GPU where both torch and ONNX Runtime have it",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="of our runner; repeatable (the embedded one)",
    )
    parser.add_argument(
        "--checkpoint", default=str(CHECKPOINT), help="what the bundles were exported from (that of the embedded one)"
    )
    parser.add_argument("--batches", type=_numbers, default=BATCHES, metavar="N,N,...", help=f"({','.join(map(str, BATCHES))})")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each at each batch size, at least (5)")
    parser.add_argument(
        "--lasting", type=float, default=20.0, metavar="SECONDS", help="for each batch size, more rounds if need be (20)"
    )
    parser.add_argument(
        "--clips", type=Path, metavar="FOLDER", help="sounds (shared/audio/esc50 beside the checkout, else examples)"
    )
    parser.add_argument(
        "--yamnet",
        type=Path,
        default=YAMNET if YAMNET.is_file() else None,
        metavar="FILE",
        help="YAMNet's .tflite file (shared/peers/yamnet beside the checkout)",
    )
    parser.add_argument(
        "--peers", type=_peers, default=PEERS, metavar="NAME,...", help=f"who takes part beside our runner ({','.join(PEERS)})"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER", help="where the report goes (build/bench)")
    return parser


def choose_device(wanted: str) -> str:
    """Return where to run.

    Raises:
        StartError: CUDA was asked for, and torch or ONNX Runtime has none.
    """
    if wanted == "cpu":
        return "cpu"
    obstacle = None if torch.cuda.is_available() else "torch has no CUDA here"
    obstacle = obstacle or find_obstacle("cuda")
    if obstacle and wanted == "cuda":
        raise StartError(f"--device is cuda: {obstacle}")
    return "cpu" if obstacle else "cuda"


def main(argv: list[str] | None = None) -> int:
    """Compare, write the report, print its tables."""
    args = make_parser().parse_args(argv)
    try:
        request = Request(
            device="cuda" if choose_device(args.device) == "cuda" else "cpu",
            bundles=tuple(args.bundle) or (EMBEDDED_BUNDLE.folder,),
            checkpoint=args.checkpoint,
            batches=args.batches,
            rounds=args.rounds,
            lasting=args.lasting,
            clips=args.clips,
            yamnet=args.yamnet,
            peers=args.peers,
        )
        with warnings.catch_warnings():
            # The libraries' remarks on themselves.
            warnings.simplefilter("ignore")
            report = run_model_benchmark(request, _tell)
    except StartError as error:
        print(f"bench: {error}", file=sys.stderr)
        return exit_codes.START
    except (ExportError, SonotagError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return exit_codes.FAILURE
    write_report(report, args.output)
    _tell("")
    print(to_markdown(report))
    print(f"Written to {args.output}: {MARKDOWN_FILE}, with plots, and the numbers as JSON.")
    return exit_codes.OK


def _tell(text: str) -> None:
    """Show what is being done, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _numbers(text: str) -> tuple[int, ...]:
    values = tuple(sorted({int(part) for part in text.split(",")}))
    if values[0] < 1:
        raise argparse.ArgumentTypeError("a batch has 1 window or more")
    return values


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(part for part in text.split(",") if part)
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PEERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
