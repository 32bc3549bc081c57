"""The parity report, as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from export.verify import is_kept
from service.inference.bundle import Manifest, ParityCheck, PrecisionEntry

_BY_SIGNAL = ("features", "logits", "scores", "embedding")


def print_report(manifest: Manifest, console: Console) -> None:
    """Print what was measured for each precision, with the limits, and where it was measured."""
    for precision, entry in manifest.precisions.items():
        console.print(_signals_table(precision, entry))
        console.print(_other_table(entry))


def _signals_table(precision: str, entry: PrecisionEntry) -> Table:
    where = entry.parity.provider.upper()
    if not entry.parity.final:
        where += "; not the provider that serves it: the golden check at load decides"
    table = Table(title=f"{precision}, {entry.operators} operators, measured on {where}", title_justify="left")
    table.add_column("largest difference on")
    checks = {(check.check, check.signal): check for check in entry.parity.checks}
    limits = {check.check: check.limit for check in entry.parity.checks}
    for name in _BY_SIGNAL:
        limit = limits.get(name)
        table.add_column(name + (f"\n≤ {limit:g}" if limit is not None else "\n(reported)"), justify="right")
    for signal in dict.fromkeys(check.signal for check in entry.parity.checks if check.check == _BY_SIGNAL[0]):
        table.add_row(signal, *(_cell(checks[name, signal]) for name in _BY_SIGNAL))
    return table


def _other_table(entry: PrecisionEntry) -> Table:
    table = Table("check", "on", "measured", "limit")
    for check in entry.parity.checks:
        if check.check not in _BY_SIGNAL:
            relation = "≥" if check.at_least else "≤"
            limit = "reported" if check.limit is None else f"{relation} {check.limit:g}"
            table.add_row(check.check, check.signal, _cell(check), limit)
    return table


def _cell(check: ParityCheck) -> str:
    text = f"{check.measured:.4g}" if check.at_least or check.measured >= 0.1 else f"{check.measured:.1e}"
    return text if is_kept(check) else f"[red]{text}[/red]"
