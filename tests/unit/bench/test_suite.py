"""The run of every benchmark: what fails is said, and the rest goes on."""

from __future__ import annotations

from pathlib import Path

from bench.goals import FILES, MODEL
from bench.suite import Part, demote, list_parts, run_part


def test_a_part_that_fails_says_so_after_what_it_printed() -> None:
    assert run_part(Part("Fine", ("-c", "print('measured')"))) == "measured\n"
    failed = run_part(Part("Ill", ("-c", "print('half of it'); raise SystemExit(3)")))
    assert failed == "half of it\n\nExit code 3.\n"


def test_every_file_that_the_table_reads_is_written_by_one_part(tmp_path: Path) -> None:
    parts = list_parts(tmp_path, ["--batches", "1"], ["--first", "24"])
    outputs = [part.arguments[part.arguments.index("--output") + 1] for part in parts]
    assert outputs == [str(tmp_path), *(str(tmp_path / name) for name in FILES if name != MODEL)]
    assert parts[0].arguments[-2:] == ("--batches", "1")
    assert parts[1].arguments[-2:] == ("--first", "24")


def test_the_goals_are_those_of_a_cpu_also_where_there_is_a_gpu(tmp_path: Path) -> None:
    model, service = (" ".join(part.arguments) for part in list_parts(tmp_path, [], [])[:2])
    assert "--device cpu" in model
    assert "--provider cpu" in service


def test_the_headings_of_a_part_are_below_its_sections() -> None:
    assert demote("# Model\n\nIs # 1\n## Times\n") == "### Model\n\nIs # 1\n#### Times\n"
