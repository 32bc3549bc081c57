"""Everything that has to be measured on a GPU, in one command: `python -m bench.gpu`.

It makes an AST of random weights, exports it with every check of an export, on the GPU, measures it beside transformers and a
large matrix product, loads a service with it, and prints the table of goals. It fits into ten minutes (`--budget`), in parts:
each prints what it measured and writes it into the folder at once, so that a run that is cut off keeps what it has; one that
cannot run, as where packages are missing, leaves its rows unmeasured, with the reason, and the others go on.

It needs Python 3.11 or newer, torch with CUDA, transformers, onnx, onnxscript, onnxruntime-gpu, numpy, pydantic, soundfile and
nvidia-ml-py; the parts with a service need what serving needs. On a machine without a GPU `--device cpu --size smallest` goes
through the same steps, and claims nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

from bench.goals import to_markdown
from bench.gpu.parts import COST, SUBJECT, Part, list_parts, run_part, share_time
from bench.gpu.rows import read_rows
from bench.gpu.settings import Settings, add_flags, read_settings
from service import exit_codes

REPORT_FILE = "report.md"


def run_all(settings: Settings, budget: float, names: tuple[str, ...]) -> dict[str, str]:
    """Run the parts and return, by name, why those have no result that have none.

    Args:
        settings: What to measure.
        budget: Seconds for everything.
        names: Which parts; empty for all. The model is made where it is not there.
    """
    end = time.monotonic() + budget
    reasons: dict[str, str] = {}
    waiting: list[Part] = []
    for part in list_parts(settings):
        settings.file(part.name).unlink(missing_ok=True)  # an earlier run's numbers are none of this one's
        if names and part.name not in (*names, SUBJECT):
            reasons[part.name] = "not asked for by --parts"
            continue
        waiting.append(part)
    while waiting:
        part = waiting.pop(0)
        if SUBJECT in reasons and part.name != COST:
            reasons[part.name] = f"there is no model: {reasons[SUBJECT]}"
            continue
        seconds = share_time(part, waiting, end - time.monotonic())
        print(f"\n## {part.name}\n", flush=True)
        reason = run_part(part, settings.folder, seconds)
        if reason is not None:
            reasons[part.name] = reason
            print(f"Unmeasured: {reason}", flush=True)
        write_report(settings.folder, reasons)
    return reasons


def write_report(folder: Path, reasons: dict[str, str]) -> str:
    """Write the table of goals, as far as it is known by now, and return it."""
    table = to_markdown(read_rows(folder, reasons))
    told = "".join(f"- {name}: unmeasured ({reason})\n" for name, reason in reasons.items())
    (folder / REPORT_FILE).write_text(f"{table}\n{told}")
    return table


def main(argv: list[str] | None = None) -> int:
    """Measure and print everything, the table of goals last."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser)
    parser.add_argument("--budget", type=float, default=540.0, metavar="SECONDS", help="for everything (540)")
    parser.add_argument("--parts", type=_names, default=(), metavar="NAME,...", help="only these (all)")
    args = parser.parse_args(argv)
    settings = read_settings(args)
    known = [part.name for part in list_parts(settings)]
    if unknown := set(args.parts) - set(known):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    if args.device == "cuda" and (obstacle := find_obstacle()):
        print(f"bench.gpu: {obstacle}; --device cpu --size smallest tries the steps without a GPU", file=sys.stderr)
        return exit_codes.START
    args.folder.mkdir(parents=True, exist_ok=True)
    reasons = run_all(settings, args.budget, args.parts)
    print(
        f"\n## Goals\n\n{write_report(args.folder, reasons)}\nWritten to {args.folder / REPORT_FILE}, and the numbers as JSON."
    )
    return exit_codes.OK


def find_obstacle() -> str | None:
    """Return why there is nothing to measure on here, or None."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    return None if torch.cuda.is_available() else "torch finds no GPU here"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


if __name__ == "__main__":
    sys.exit(main())
