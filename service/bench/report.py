"""The reports of a service's benchmark and of a model's tuning, as tables for people: on a terminal, and as Markdown."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from service.bench.benchmark import ServiceReport
from service.bench.results import ClipStage, StreamStage
from service.bench.tuner import TuningReport
from service.inference.tuning import Trial

Tables = list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]
"""Of each its title, columns and rows."""

STREAM_COLUMNS = (
    "streams",
    "lag p50",
    "p90",
    "p99",
    "grew by",
    "server says p99",
    "unanswered",
    "windows/s",
    "batch",
    "service cores",
    "generator cores",
    "sent late p99",
    "objective",
)
CLIP_COLUMNS = ("clients", "clips/s", "p50", "p99", "windows/s", "batch", "refused", "service cores", "generator cores")
TUNING_COLUMNS = (
    "precision",
    "CPU threads",
    "lanes",
    "batch",
    "windows/s, all lanes",
    "slow to fast rounds",
    "ms a window alone",
    "",
)


def summarize(report: ServiceReport) -> list[str]:
    """Return what was found, in sentences."""
    model, slo, hop = report.model, report.plan["slo_seconds"], report.plan["hop_seconds"]
    lines = [
        f"{model.name} in {model.precision} on {model.provider}, {report.workers} worker(s), {report.cores} cores "
        f"({report.processor}), load generator on the same machine."
    ]
    objective = f"p99 lag under {slo:g} s, no growing backlog, nothing dropped"
    if report.largest is None:
        lines.append(f"No number of live streams that was tried kept the objective ({objective}).")
    else:
        more = "" if report.is_limit else " or more"
        lines.append(f"{report.largest}{more} live streams at hop {hop:g} s keep the objective ({objective}).")
    lines += [f"{failed.stage} measured nothing: {failed.reason}." for failed in report.failed]
    for name, value, stages in (
        ("an idle", report.memory.idle_stream, ""),
        ("a live", report.memory.live_stream, " (stages before the first overload)"),
    ):
        if value is not None:
            lines.append(f"Memory of {name} stream: {value / 1e6:.3f} MB{stages}.")
    if gpus := [gpu for stage in report.streams if stage.streams == report.largest for gpu in stage.server.gpus]:
        lines += [f"GPU {gpu.name}: {_share(gpu.utilisation)} busy, {_gib(gpu.memory_bytes)}." for gpu in gpus]
    return lines


def print_report(report: ServiceReport, console: Console) -> None:
    """Print the tables and what they say."""
    _print_tables(_tables(report), summarize(report), console)


def to_markdown(report: ServiceReport) -> str:
    """Return the same as Markdown."""
    return _write_markdown(_tables(report), summarize(report))


def print_tuning(report: TuningReport, console: Console) -> None:
    """Print what was measured of each way, and which is the best."""
    _print_tables(_tuning_tables(report), _summarize_tuning(report), console)


def tuning_to_markdown(report: TuningReport) -> str:
    """Return the same as Markdown."""
    return _write_markdown(_tuning_tables(report), _summarize_tuning(report))


def _print_tables(tables: Tables, lines: list[str], console: Console) -> None:
    for title, columns, rows in tables:
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, justify="right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _write_markdown(tables: Tables, summary: list[str]) -> str:
    parts = ["\n".join(f"- {line}" for line in summary)]
    for title, columns, rows in tables:
        lines = [f"| {' | '.join(columns)} |", f"|{'---:|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]
        parts.append(f"**{title}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _summarize_tuning(report: TuningReport) -> list[str]:
    conditions, trial = report.tuning.conditions, {trial.way: trial for trial in report.trials}
    rule = "the rule's way"
    if report.rule != report.tuning.way:
        rule = f"by rule: {report.rule}, {trial[report.rule].windows_per_second:.1f} windows/s"
    return [
        f"{report.model} on {conditions.provider}, {conditions.cores} cores ({conditions.processor}), "
        f"{conditions.workers} worker(s) of {conditions.num_threads} CPU thread(s), onnxruntime {conditions.onnxruntime}.",
        f"Best: {report.tuning.way}, {report.tuning.windows_per_second:.1f} windows/s ({rule}).",
    ]


def _tuning_tables(report: TuningReport) -> Tables:
    return [("Ways to run the model", TUNING_COLUMNS, [_way_row(report, trial) for trial in report.trials])]


def _way_row(report: TuningReport, trial: Trial) -> tuple[str, ...]:
    way = trial.way
    marks = {"best": report.tuning.way, "rule": report.rule}
    return (
        *(way.precision, str(way.threads), str(way.lanes), str(way.batch_size)),
        *(f"{trial.windows_per_second:.1f}", "{:.1f} to {:.1f}".format(*trial.spread), f"{1000 * trial.seconds_alone:.1f}"),
        ", ".join(mark for mark, marked in marks.items() if marked == way),
    )


def _tables(report: ServiceReport) -> Tables:
    streams = sorted(report.streams, key=lambda stage: stage.streams)
    tables: Tables = []
    if streams:
        tables.append(("Live streams (lag in ms)", STREAM_COLUMNS, [_stream_row(stage) for stage in streams]))
    if report.clips:
        tables.append(("REST, five-second clips, closed loop (ms)", CLIP_COLUMNS, [_clip_row(stage) for stage in report.clips]))
    return tables


def _stream_row(stage: StreamStage) -> tuple[str, ...]:
    lag = stage.client_lag
    return (
        str(stage.streams),
        _ms(lag.p50),
        _ms(lag.p90),
        _ms(lag.p99),
        _ms(stage.lag_growth),
        _ms(stage.server_lag.p99),
        f"{stage.unanswered} of {stage.windows}",
        f"{stage.server.windows_per_second:.1f}",
        _number(stage.server.mean_batch),
        _number(stage.server.cores),
        f"{stage.generator_cores:.2f}",
        _ms(stage.lateness.p99),
        ", ".join(stage.broken) or "kept",
    )


def _clip_row(stage: ClipStage) -> tuple[str, ...]:
    return (
        str(stage.clients),
        f"{stage.clips_per_second:.1f}",
        _ms(stage.latency.p50),
        _ms(stage.latency.p99),
        f"{stage.server.windows_per_second:.1f}",
        _number(stage.server.mean_batch),
        ", ".join(f"{number} x {status}" for status, number in stage.refused.items()) or "none",
        _number(stage.server.cores),
        f"{stage.generator_cores:.2f}",
    )


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.0f}"


def _share(value: float | None) -> str:
    return "how much is unknown" if value is None else f"{value:.0%}"


def _gib(value: int | None) -> str:
    return "memory unknown" if value is None else f"{value / 2**30:.1f} GiB"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
