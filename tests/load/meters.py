"""What a service and all its processes hold, as Linux counts it."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Usage:
    """Of a process and its descendants together: bytes of their own memory, open descriptors, threads.

    A page that several processes share is counted once: a decoder is a copy of another process, and most of its 30 MB are that
    one's.
    """

    memory: int
    descriptors: int
    threads: int


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def children(pid: int) -> list[int]:
    """Return a supervisor's workers, without what these have started."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def client_ports(pid: int) -> frozenset[int]:
    """Return the other ends' ports of all TCP connections that a process has open; empty where it is gone."""
    inodes = set()
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                inodes.add(descriptor.readlink().name)
        tables = [Path(f"/proc/{pid}/net/{table}").read_text() for table in ("tcp", "tcp6")]
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()
    rows = (line.split() for table in tables for line in table.splitlines()[1:])
    ports = (int(row[2].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in inodes)
    return frozenset(port for port in ports if port)


def stop(pid: int) -> None:
    """Stop a process and return when it stands: what it has open then stays as it is."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TtZX":
        pass


def usage(pid: int) -> Usage:
    """Measure. A process that ends meanwhile counts as nothing."""
    memory = descriptors = threads = 0
    for member in family(pid):
        try:
            status = Path(f"/proc/{member}/status").read_text()
            pages = Path(f"/proc/{member}/smaps_rollup").read_text()
            memory += 1024 * int(re.search(r"^Pss_Anon:\s+(\d+)", pages, re.MULTILINE)[1])  # type: ignore[index]
            threads += int(re.search(r"^Threads:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
            descriptors += len(list(Path(f"/proc/{member}/fd").iterdir()))
        except (FileNotFoundError, ProcessLookupError, TypeError):
            continue
    return Usage(memory, descriptors, threads)


async def metric(client: httpx.AsyncClient, url: str, name: str) -> float:
    """Return the sum of a metric's samples, 0 where there is none."""
    page = (await client.get(f"{url}/metrics")).text
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE))
