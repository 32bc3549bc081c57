from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.machine import count_usable_cores, divide_cores, read_processor_name


def test_at_least_one_core_can_be_used_and_no_more_than_the_machine_has() -> None:
    assert 1 <= count_usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("own", "quotas", "expected"),
    [
        ("0::/\n", {"": "200000 100000"}, 2),
        ("0::/\n", {"": "150000 100000"}, 2),
        ("0::/\n", {"": "10000 100000"}, 1),
        ("0::/\n", {"": "max 100000"}, 8),
        ("0::/\n", {}, 8),
        ("0::/system.slice/sonotag.service\n", {"system.slice/sonotag.service": "300000 100000"}, 3),
        ("1:cpu:/\n0::/a/b\n", {"a/b": "max 100000", "a": "400000 100000", "": "900000 100000"}, 4),
        ("1:cpu:/\n", {"": "500000 100000"}, 5),
    ],
)
def test_the_smallest_quota_of_its_control_groups_holds(
    own: str, quotas: dict[str, str], expected: int, tmp_path: Path
) -> None:
    for folder, quota in quotas.items():
        (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / folder / "cpu.max").write_text(quota + "\n")
    (tmp_path / "own").write_text(own)
    assert count_usable_cores(tmp_path / "cgroup", tmp_path / "own", affinity=8) == expected


def test_without_control_groups_the_affinity_holds(tmp_path: Path) -> None:
    assert count_usable_cores(tmp_path / "none", tmp_path / "none", affinity=3) == 3


def test_workers_divide_the_cores_and_each_has_one() -> None:
    assert [divide_cores(cores, workers) for cores, workers in ((8, 2), (7, 2), (2, 1), (2, 4))] == [4, 3, 2, 1]


def test_the_processor_has_a_name() -> None:
    assert read_processor_name()
