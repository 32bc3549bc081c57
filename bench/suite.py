"""`python -m bench.suite`: every benchmark of a CPU, one after the other, and one table of the goals at the end.

Each part runs in processes of its own, on a machine that should have nothing else to do. What was measured is written into the
folder as it comes; `report.md` has all of it, the table of goals first. The exit code is 0 when every goal was measured, also
where one is missed, and 1 when one was not.
"""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.goals import COST, DECODING, FILES, SERVICE, THROUGHPUT, read_goals, to_markdown
from bench.report import SPEED_PLOT, SPREAD_PLOT
from bench.service import LAG_PLOT
from service import exit_codes

REPORT_FILE = "report.md"
PART_SECONDS = 1200.0
"""A part that takes longer than this hangs."""
END_SECONDS = 60.0
"""For a part that is told to end."""


@dataclass(frozen=True, slots=True)
class Part:
    """One program.

    Attributes:
        title: Of its section.
        arguments: After the interpreter; standard output is Markdown.
    """

    title: str
    arguments: tuple[str, ...]


def list_parts(folder: Path, model: list[str], service: list[str]) -> list[Part]:
    """Return what to run.

    Args:
        folder: Where the parts write.
        model: Arguments for the comparison of models.
        service: Arguments for `sonotag bench`.
    """

    return [
        Part("The model", ("-m", "bench", "--device", "cpu", "--output", str(folder), *model)),
        Part(
            "The service",
            (
                *("-m", "service", "bench", "--provider", "cpu", "--slo", "0.5", "--markdown", "--no-save"),
                *("--output", str(folder / SERVICE), *service),
            ),
        ),
        Part("Throughput", ("-m", "bench.throughput", "--output", str(folder / THROUGHPUT))),
        Part("A stream without its model", ("-m", "bench.stream_cost", "--output", str(folder / COST))),
        Part("Decoding", ("-m", "bench.decoding", "--output", str(folder / DECODING))),
    ]


def run_part(part: Part) -> str:
    """Run a part and return what it printed, and how it ended where that was not well."""
    print(f"\n== {part.title}", file=sys.stderr, flush=True)
    with subprocess.Popen([sys.executable, *part.arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            said, _ = process.communicate(timeout=PART_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            _wait(process)
            return f"Ended after {PART_SECONDS:g} s without a result.\n"
        except KeyboardInterrupt:
            _wait(process)  # the terminal's signal reached it, too, and it ends the service that it started
            raise
    print(said, flush=True)
    return said + (f"\nExit code {process.returncode}.\n" if process.returncode else "")


def demote(text: str) -> str:
    """Return Markdown for a section of the report: its headings are below the section's."""
    return re.sub(r"^#", "###", text, flags=re.MULTILINE)


def _wait(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def main(argv: list[str] | None = None) -> int:
    """Run all and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.suite", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path("build/bench"), metavar="FOLDER", help="(build/bench)")
    parser.add_argument("--model", type=shlex.split, default=[], metavar="ARGUMENTS", help="for python -m bench")
    parser.add_argument("--service", type=shlex.split, default=[], metavar="ARGUMENTS", help="for sonotag bench")
    args = parser.parse_args(argv)
    folder: Path = args.output
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, SPEED_PLOT, SPREAD_PLOT):  # an earlier run's numbers are none of this one's
        (folder / name).unlink(missing_ok=True)
    sections = []
    for part in list_parts(folder, args.model, args.service):
        said = run_part(part)
        sections.append(f"## {part.title}\n\n{demote(said)}")
    for plot, title in ((SPEED_PLOT, "Windows a second by batch size"), (SPREAD_PLOT, "Spread of the times")):
        if (folder / plot).is_file():
            sections[0] += f"\n![{title}]({plot})\n"
    if (folder / SERVICE).is_file():
        subprocess.run([sys.executable, "-m", "bench.service", str(folder / SERVICE)], check=True)
        sections[1] += f"\n![Lag over the number of streams]({LAG_PLOT})\n"
    goals = read_goals(folder)
    table = to_markdown(goals)
    (folder / REPORT_FILE).write_text("# Benchmark\n\n" + table + "\n" + "\n".join(sections))
    print(f"\n{table}\nWritten to {folder / REPORT_FILE}, with plots, and the numbers as JSON.")
    return exit_codes.FAILURE if any(goal.is_reached is None for goal in goals) else exit_codes.OK


if __name__ == "__main__":
    sys.exit(main())
