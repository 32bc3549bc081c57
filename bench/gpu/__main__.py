"""Everything that has to be measured on a GPU, in one command: `python -m bench.gpu`.

It makes an AST of random weights, exports it with every check of an export, on the GPU, measures it beside transformers and a
large matrix product, loads a service with it, and prints the table of goals. It fits into ten minutes (`--budget`), in parts:
each prints what it measured and writes it into the folder at once, so that a run that is cut off keeps what it has; one that
cannot run, as where packages are missing, leaves its rows unmeasured, with the reason, and the others go on. Control-C and a
SIGTERM end it with the table of what there is; `--resume` goes on with what is missing.

It needs Python 3.11 or newer, torch with CUDA, transformers, onnx, onnxscript, onnxruntime-gpu, numpy, pydantic, soundfile and
nvidia-ml-py; the parts with a service need what serving needs. It runs from a checkout, which need not be installed. On a
machine without a GPU `--device cpu --size smallest` goes through the same steps, and claims nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import signal
import sys
import time
from pathlib import Path

from bench.goals import to_markdown
from bench.gpu.parts import COST, MACHINE, SUBJECT, Part, list_parts, run_part, share_time
from bench.gpu.rows import read_rows
from bench.gpu.settings import Settings, add_flags, read_settings
from service import exit_codes

REPORT_FILE = "report.md"
NEEDED = (MACHINE, SUBJECT)
"""What the others cannot do without, but for those that need no model."""


def run_all(settings: Settings, budget: float, names: tuple[str, ...], *, resume: bool = False) -> dict[str, str]:
    """Run the parts and return, by name, why those have no result that have none.

    Args:
        settings: What to measure.
        budget: Seconds for everything.
        names: Which parts; empty for all. The model is made where it is not there.
        resume: Whether what an earlier run wrote into the folder still counts, and is not measured again unless it is named.
    """
    end = time.monotonic() + budget
    kept = find_results(settings) - set(names) if resume else set()
    reasons: dict[str, str] = {}
    waiting: list[Part] = []
    for part in list_parts(settings):
        if part.name in kept:
            continue
        settings.file(part.name).unlink(missing_ok=True)  # an earlier run's numbers are none of this one's
        if names and part.name not in (*names, *NEEDED):
            reasons[part.name] = "not asked for by --parts"
            continue
        waiting.append(part)
    try:
        while waiting:
            part = waiting.pop(0)
            lacking = next((needed for needed in NEEDED if needed in reasons), None)
            if lacking and not (part.name == COST and lacking == SUBJECT):
                reasons[part.name] = f"no {lacking}: {reasons[lacking]}"
                continue
            seconds = share_time(part, waiting, end - time.monotonic())
            print(f"\n## {part.name}\n", flush=True)
            reason = run_part(part, settings.folder, seconds)
            if reason is not None:
                reasons[part.name] = reason
                print(f"Unmeasured: {reason}", flush=True)
            write_report(settings.folder, reasons)
    except KeyboardInterrupt:
        reasons |= {left.name: "it was told to end" for left in (part, *waiting) if not settings.file(left.name).is_file()}
    return reasons


def find_results(settings: Settings) -> set[str]:
    """Return the parts that have a result in the folder; none where it is one of another model or device."""
    names = {part.name for part in list_parts(settings) if settings.file(part.name).is_file()}
    if SUBJECT not in names:
        return set()
    subject = json.loads(settings.file(SUBJECT).read_text())
    is_same = (subject["device"], subject["size"]) == (settings.device, settings.size)
    return names if is_same and (settings.folder / "bundle").is_dir() else set()


def write_report(folder: Path, reasons: dict[str, str]) -> str:
    """Write the machine and the table of goals, as far as they are known by now, and return them."""
    table = to_markdown(read_rows(folder, reasons))
    with contextlib.suppress(OSError):
        table = f"{json.loads((folder / f'{MACHINE}.json').read_text())['summary']}.\n\n{table}"
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
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run measured, and measure the rest")
    args = parser.parse_args(argv)
    settings = read_settings(args)
    known = [part.name for part in list_parts(settings)]
    if unknown := set(args.parts) - set(known):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    allow_open_files()
    reasons = run_all(settings, args.budget, args.parts, resume=args.resume)
    print(
        f"\n## Goals\n\n{write_report(args.folder, reasons)}\nWritten to {args.folder / REPORT_FILE}, and the numbers as JSON."
    )
    if MACHINE in reasons:
        print(f"bench.gpu: {reasons[MACHINE]}; --device cpu --size smallest tries the steps without a GPU", file=sys.stderr)
        return exit_codes.START
    return exit_codes.OK


def allow_open_files() -> None:
    """Let this process and those it starts have as many open files as they may: a thousand streams are a thousand sockets."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


if __name__ == "__main__":
    sys.exit(main())
