"""What processes use, from /proc: those of the service under load."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process and all that it started.

    Attributes:
        cpu_seconds: Processor time so far.
        memory_bytes: What they hold of their own: anonymous memory, without the files that they map.
        num_processes: How many they are.
    """

    cpu_seconds: float
    memory_bytes: int
    num_processes: int


def read_usage(pid: int) -> Usage | None:
    """Return what a process and its descendants use, or None where there is no /proc, or no such process."""
    if not (_PROC / str(pid) / "stat").exists():
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    parents: dict[int, tuple[int, float]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            try:
                # The name in parentheses may hold anything, spaces and parentheses too.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(folder.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks)
    family = {pid}
    while more := {child for child, (parent, _) in parents.items() if parent in family} - family:
        family |= more
    members = family & parents.keys()
    return Usage(
        cpu_seconds=sum(parents[member][1] for member in members),
        memory_bytes=sum(_read_anonymous_bytes(member) for member in members),
        num_processes=len(members),
    )


def _read_anonymous_bytes(pid: int) -> int:
    try:
        for line in (_PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
