"""The report of the models' comparison: JSON, Markdown, plots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from bench.contestants import Facts
from bench.model import ModelReport
from bench.plots import draw_speed, draw_spread
from bench.race import Race, Time

JSON_FILE, MARKDOWN_FILE = "model.json", "model.md"
SPEED_PLOT, SPREAD_PLOT = "model-speed.png", "model-spread.png"


def write_report(report: ModelReport, folder: Path) -> None:
    """Write all of it into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_FILE).write_text(json.dumps(report.to_document(), indent=2) + "\n")
    draw_speed(report, folder / SPEED_PLOT)
    draw_spread(report, folder / SPREAD_PLOT)
    plots = f"\n![Windows a second by batch size]({SPEED_PLOT})\n\n![Spread of the times]({SPREAD_PLOT})\n"
    (folder / MARKDOWN_FILE).write_text(to_markdown(report) + plots)


def to_markdown(report: ModelReport) -> str:
    """Return the tables and what is needed to read them."""
    parts = [
        f"# {report.checkpoint}: {report.window_seconds:g} s windows on {report.device}",
        _conditions(report),
        "Milliseconds for each window: median (quartiles; the least).\n\n" + _time_table(report),
        _rate_title(report) + "\n\n" + _rate_table(report),
        "The largest difference of a score from transformers in float32, over all windows.\n\n" + _difference_table(report),
        _remarks(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _conditions(report: ModelReport) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    product = ", ".join(f"{race.product.median / 1e12:.3g}" for race in report.races)
    reference = (
        f" A product of {report.product_type} matrices of {report.product_size} squared ran at {product} TFLOP/s "
        "while each batch size was measured."
    )
    return (
        f"{report.cores} cores, {versions}; {report.rounds} or more interleaved rounds on the same windows ({report.clips}), "
        f"{report.measured_at:%Y-%m-%d}. "
        f"A window is nominally {report.work.encoder / 1e9:.4g} GFLOP, and {report.work.front_end / 1e9:.2g} in the front end; "
        f"graphs of our export do {report.work.exported / 1e9:.4g} of them, since of the last layer only two tokens are read."
        + (reference if report.kind == "cuda" else "")
    )


def _time_table(report: ModelReport) -> str:
    return _table(report, lambda time, _: _quartiles(time))


def _rate_title(report: ModelReport) -> str:
    title = "Windows a second, and the rate of the encoder's operations, those that are done"
    # On a CPU torch's product is no limit: others multiply faster.
    return title + ("; how much of the large product's rate that is." if report.kind == "cuda" else ".")


def _rate_table(report: ModelReport) -> str:
    def cell(time: Time, race: Race) -> str:
        if time.seconds is None:
            return "–"
        speed = time.batch / time.seconds.median
        facts = _facts(report, time)
        if not facts.is_same_model:
            return f"{speed:.4g}"
        rate = speed * (report.work.exported if facts.is_export else report.work.encoder)
        share = f", {rate / race.product.median:.2f}" if report.kind == "cuda" else ""
        return f"{speed:.4g} ({rate / 1e12:.3g} TFLOP/s{share})"

    return _table(report, cell)


def _difference_table(report: ModelReport) -> str:
    return _table(report, lambda time, _: "–" if time.difference is None else f"{time.difference:.1e}")


def _table(report: ModelReport, cell: Callable[[Time, Race], str]) -> str:
    batches = [race.times[0].batch for race in report.races if race.times]
    lines = [
        "| | " + " | ".join(f"batch {batch}" for batch in batches) + " |",
        "|---|" + "---:|" * len(batches),
    ]
    for index, facts in enumerate(report.facts):
        cells = [cell(race.times[index], race) for race in report.races]
        lines.append(f"| {facts.name}, {facts.counts} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _quartiles(time: Time) -> str:
    if time.seconds is None:
        return "–"
    spread = time.seconds
    median, lower, upper, least = (
        1000 * seconds / time.batch for seconds in (spread.median, spread.lower, spread.upper, spread.least)
    )
    return f"{median:.3g} ({lower:.3g} to {upper:.3g}; {least:.3g})"


def _facts(report: ModelReport, time: Time) -> Facts:
    return next(facts for facts in report.facts if facts.name == time.name)


def _remarks(report: ModelReport) -> str:
    lines = [f"- {facts.name}: {facts.note}." for facts in report.facts if facts.note]
    lines += [f"- Not in the race: {absent.name}: {absent.reason}." for absent in report.absent]
    for race in report.races:
        lines += [f"- {time.name} does not run batch {time.batch}: {time.error}" for time in race.times if time.error]
    lines += [f"- {trial}" for trial in report.trials]
    return "\n".join(lines)
