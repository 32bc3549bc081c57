"""What the machine gives a service: its cores, and what `sonotag bench` once measured here. Imports nothing of the service.

Where there are several workers the supervisor reads it once for all of them. Each for itself could find something else: a
worker that is replaced after a benchmark, or after its container was given more cores, would run the model in another precision
than the others, and the same sound would have two answers.
"""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """One reading.

    Attributes:
        cores: How many may be used, by all workers together.
        capacity_file: The bytes of SONOTAG_CAPACITY_FILE; None where there is none.
    """

    cores: int
    capacity_file: bytes | None = None


def count_usable_cores(
    cgroups: Path = Path("/sys/fs/cgroup"), own_cgroup: Path = Path("/proc/self/cgroup"), affinity: int | None = None
) -> int:
    """Return how many cores this process may use: its affinity, and the smallest quota of its control groups.

    Args:
        cgroups: Where control groups of version 2 are mounted.
        own_cgroup: Which one this process is in. In a container that is the root; a service of systemd with a CPUQuota has its
            own, and a slice above it may have another.
        affinity: How many cores it may be scheduled on; None to ask.
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:  # no Linux
        lines = []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    inner = cgroups / path
    folders = [inner, *(folder for folder in inner.parents if folder.is_relative_to(cgroups))]
    return max(1, min([affinity, *(quota for folder in folders if (quota := _read_quota(folder / "cpu.max")) is not None)]))


def divide_cores(cores: int, workers: int) -> int:
    """Return each worker's part of the cores: its models' threads. More workers than cores have one each."""
    return max(1, cores // workers)


def read_processor_name() -> str:
    """Return what the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read_quota(file: Path) -> int | None:
    """Return the cores that a control group may use, part of one counted whole; None where there is no limit."""
    try:
        quota, period = file.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no control groups of version 2, or "max": no quota
        return None
