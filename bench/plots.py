"""The pictures of the report."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

from bench.model import ModelReport


def draw_speed(report: ModelReport, path: Path) -> None:
    """Draw windows a second over batch sizes, with the quartiles."""
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for index, facts in enumerate(report.facts):
        times = [race.times[index] for race in report.races]
        points = [(time.batch, time.seconds) for time in times if time.seconds is not None]
        batches = [batch for batch, _ in points]
        style = "-" if facts.counts == "waveform to scores" else "--"
        (line,) = axes.plot(batches, [batch / seconds.median for batch, seconds in points], style, marker="o", label=facts.name)
        lowest = [batch / seconds.upper for batch, seconds in points]
        highest = [batch / seconds.lower for batch, seconds in points]
        axes.fill_between(batches, lowest, highest, color=line.get_color(), alpha=0.15)
    axes.set(xscale="log", xlabel="batch", ylabel="windows a second", ylim=(0, None))
    axes.set_xticks([race.times[0].batch for race in report.races if race.times])
    axes.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_title(f"{report.checkpoint} on {report.device}; dashed: features not counted")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_spread(report: ModelReport, path: Path) -> None:
    """Draw the time of a window at the smallest and the largest batch, with the quartiles."""
    races = [report.races[0], report.races[-1]] if len(report.races) > 1 else list(report.races)
    figure, all_axes = pyplot.subplots(1, len(races), figsize=(5.5 * len(races), 4.5), layout="constrained", squeeze=False)
    for axes, race in zip(all_axes[0], races, strict=True):
        times = [(time.name, time.batch, time.seconds) for time in race.times if time.seconds is not None]
        names = [name for name, _, _ in times]
        medians = [1000 * seconds.median / batch for _, batch, seconds in times]
        below = [1000 * (seconds.median - seconds.lower) / batch for _, batch, seconds in times]
        above = [1000 * (seconds.upper - seconds.median) / batch for _, batch, seconds in times]
        axes.barh(names, medians, xerr=[below, above], capsize=3, color="#4c78a8")
        axes.invert_yaxis()
        axes.set(xlabel="ms a window", title=f"batch {race.times[0].batch if race.times else 0}")
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
