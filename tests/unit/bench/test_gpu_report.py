"""What `bench.gpu` does with its parts and their measurements; `tests/bench/check_gpu.py` runs the whole of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.goals import UNMEASURED, Goal
from bench.gpu.__main__ import REPORT_FILE, find_results, run_all, write_report
from bench.gpu.parts import COST, FLOAT8, MACHINE, RACE, STREAMS, SUBJECT, WAYS, Part, list_parts, run_part, share_time
from bench.gpu.rates import Rate, Results, measure
from bench.gpu.rows import ON_CPU, read_rows
from bench.gpu.settings import Settings
from service import exit_codes
from tests.support.bench_reports import make_report, make_stage
from tests.support.shared import REPOSITORY

GROWTH = "cost of one more stream, from 10 to 1,000"


def contestant(name: str, rows: int, seconds: float | None, difference: float = 0.001) -> dict[str, object]:
    spread = None if seconds is None else {"median": seconds}
    return {"name": name, "batch": rows, "seconds": spread, "difference": difference}


def race_of(rows: int, ours: float, theirs: float, difference: float) -> dict[str, object]:
    """Ours is fastest in flight, theirs queued; as called takes a second."""
    times = [
        contestant("Sonotag fp16", rows, 2 * ours, difference),
        contestant("Sonotag fp16, 8 batches in flight", rows, ours, difference),
        contestant("transformers eager fp32", rows, None),
        contestant("transformers eager fp16", rows, 2 * theirs),
        contestant("transformers as called, fp16", rows, 1.0),
        contestant("transformers eager fp16, 8 batches queued", rows, theirs),
    ]
    return {"times": times, "product": {"median": 700e12}}


def write_run(folder: Path, *, device: str = "cuda", size: str = "base", difference: float = 0.001) -> None:
    half, float8 = (asdict(Rate(rate, rate, rate)) for rate in (600.0, 900.0))
    documents: dict[str, object] = {
        SUBJECT: {"device": device, "size": size},
        RACE: {
            "tolerance": 0.01,
            "work": {"exported": 245_000_000_000},
            "races": [race_of(32, 0.02, 0.023, difference), race_of(1, 0.001, 0.007, difference)],
        },
        STREAMS: make_report(make_stage(1000), make_stage(1050, "lag"), largest=1000).to_document(),
        **{
            f"throughput-{workers}": {
                "served": [{"clips": "30 s of WAV", "ratio": ratio, "windows_per_second": 1000 * ratio}],
                "bare": 1000.0,
                "course": {"workers": workers},
            }
            for workers, ratio in ((1, 0.7), (4, 0.95))
        },
        COST: {"is_whole": True, "growth": 1.05, "more_of_few": 3.0, "more_of_many": 3.15, "streams": 3.2, "broken": {}},
        FLOAT8: {"ratio": 1.5, "half": half, "float8": float8, "float8_error": 0.03},
    }
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))


def every_row_says_something(rows: list[Goal]) -> bool:
    """Whether each has a number, or the reason for having none."""
    return all(row.measured.startswith(f"{UNMEASURED} (") == (row.is_reached is None) for row in rows)


def test_a_whole_run_fills_every_row_but_those_of_a_cpu(tmp_path: Path) -> None:
    write_run(tmp_path)
    rows = read_rows(tmp_path, {})
    assert every_row_says_something(rows)
    assert [row.is_reached for row in rows if row.is_reached is not None] == [True] * 10
    assert [row.measured for row in rows if row.is_reached is None] == [f"{UNMEASURED} ({ON_CPU})"] * 3
    told = [row.measured for row in rows]
    ours = "Sonotag fp16, 8 batches in flight, 1,600 windows/s"
    assert told[0] == f"1.15 times ({ours}; transformers eager fp16, 8 batches queued, 1,391)"
    assert told[1].startswith("7.00 times (")
    assert told[2].startswith("50.00 times (")
    assert told[3] == "0.56 (392 of 700 TFLOP/s)"
    assert told[4].startswith("0.95 with 4 worker(s) (950 of 1,000 windows/s, clips: 30 s of WAV); 0.70 with 1 worker")
    assert told[6] == "1,000 on 2 cores, 1 worker(s), p99 99 ms"
    assert told[9:11] == ["0.035 MB", "0.600 MB"]
    assert told[12] == "1.50 times (900 of 600 TFLOP/s; off by 3.0e-02)"


def test_an_empty_folder_gives_every_row_its_reason(tmp_path: Path) -> None:
    rows = read_rows(tmp_path, {STREAMS: "not installed: fastapi", RACE: "CUDA out of memory"})
    assert every_row_says_something(rows)
    assert {row.is_reached for row in rows} == {None}
    assert [row.measured for row in rows if "base" in row.name] == [
        f"{UNMEASURED} (CUDA out of memory)",
        f"{UNMEASURED} (not installed: fastapi)",
    ]
    assert rows[-1].measured == f"{UNMEASURED} (it was not run)"


def test_a_faster_wrong_answer_does_not_count(tmp_path: Path) -> None:
    write_run(tmp_path, difference=0.02)
    assert [row.measured for row in read_rows(tmp_path, {})[:4]] == [
        f"{UNMEASURED} (no right answer of Sonotag at batch {rows})" for rows in (32, 1, 32, 32)
    ]


@pytest.mark.parametrize(("device", "size"), [("cpu", "base"), ("cuda", "tiny")])
def test_nothing_but_base_on_a_gpu_counts_besides_what_needs_no_model(device: str, size: str, tmp_path: Path) -> None:
    write_run(tmp_path, device=device, size=size)
    rows = read_rows(tmp_path, {})
    assert every_row_says_something(rows)
    assert [row.name for row in rows if row.is_reached is not None] == [GROWTH]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_part_writes_where_the_rows_are_read(device: str, tmp_path: Path) -> None:
    settings = Settings("cuda" if device == "cuda" else "cpu", "base", (32, 1), tmp_path)
    for part in list_parts(settings):
        arguments = part.make_arguments(60.0)
        assert arguments[arguments.index("--output") + 1] == str(settings.file(part.name))


def test_time_that_a_part_does_not_use_goes_to_the_later_ones() -> None:
    first, second, third = (Part(name, (), share, lambda _: ()) for name, share in (("a", 2.0), ("b", 1.0), ("c", 1.0)))
    assert share_time(first, [second, third], 400.0) == 200.0
    assert share_time(second, [third], 390.0) == 195.0
    assert share_time(third, [], 10.0) == 10.0


def test_a_part_says_why_it_has_no_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def part(code: str, *needs: str) -> Part:
        return Part("part", needs, 1.0, lambda _: ("-c", code))

    assert run_part(part("", "no_such_module", "json"), tmp_path, 10.0) == "not installed: no_such_module"
    assert run_part(part(""), tmp_path, 1.0) == "no time was left"
    assert run_part(part("raise ValueError('no such operator')"), tmp_path, 10.0) == "ValueError: no such operator"
    assert run_part(part("raise SystemExit(3)"), tmp_path, 10.0) == "exit code 3"
    crash = "import os, sys; print('batch 8', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)"
    assert run_part(part(crash), tmp_path, 10.0) == "SIGSEGV after: batch 8"
    writes = f"open({str(tmp_path / 'part.json')!r}, 'w').write('{{}}')"
    assert run_part(part(writes), tmp_path, 10.0) is None
    assert capfd.readouterr().out == ""
    assert run_part(part(f"{writes}; raise ValueError('batch 64')"), tmp_path, 10.0) is None
    assert capfd.readouterr().out == "\n(Ended with ValueError: batch 64; what it had measured counts.)\n"


def test_what_is_not_asked_for_is_said_and_an_earlier_run_is_forgotten(tmp_path: Path) -> None:
    write_run(tmp_path)
    settings = Settings("cuda", "base", (1,), tmp_path)
    reasons = run_all(settings, 0.0, (COST,))
    assert reasons[RACE] == "not asked for by --parts"
    assert reasons[MACHINE] == "no time was left"
    assert reasons[SUBJECT] == reasons[COST] == "no machine: no time was left"
    assert not settings.file(RACE).exists()
    assert f"| {GROWTH} | at most 10 % more | {UNMEASURED} (no machine: no time was left) |" in write_report(tmp_path, reasons)


def test_a_run_that_is_resumed_keeps_what_is_there_and_is_not_asked_for_anew(tmp_path: Path) -> None:
    write_run(tmp_path)
    settings = Settings("cuda", "base", (1,), tmp_path)
    assert find_results(settings) == set()  # the model is gone
    (tmp_path / "bundle").mkdir()
    assert find_results(Settings("cuda", "tiny", (1,), tmp_path)) == set()
    settings.file(MACHINE).write_text(json.dumps({"summary": "NVIDIA H100; 16 cores"}))
    reasons = run_all(settings, 0.0, (STREAMS, FLOAT8), resume=True)
    assert {name: reasons.get(name) for name in (MACHINE, SUBJECT, RACE, STREAMS, FLOAT8, WAYS)} == {
        **dict.fromkeys((MACHINE, SUBJECT, RACE)),
        **dict.fromkeys((STREAMS, FLOAT8), "no time was left"),
        WAYS: "not asked for by --parts",
    }
    assert settings.file(RACE).is_file()
    assert not settings.file(STREAMS).exists()
    assert "1.15 times" in write_report(tmp_path, reasons)
    assert (tmp_path / REPORT_FILE).read_text().startswith("NVIDIA H100; 16 cores.\n\n| goal |")


def test_a_run_that_is_told_to_end_prints_the_table(tmp_path: Path) -> None:
    """The first part would look at the machine for seconds; it is told as soon as it has begun."""
    options = ["--device", "cpu", "--size", "smallest", "--folder", str(tmp_path)]
    command = [sys.executable, "-u", "-m", "bench.gpu", *options]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert any(line == f"## {MACHINE}\n" for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
    assert process.returncode == exit_codes.START
    assert said.count(f"{UNMEASURED} (it was told to end)") >= 8
    assert (tmp_path / REPORT_FILE).is_file()


def test_one_measurement_that_fails_leaves_its_reason_and_the_others() -> None:
    kept: list[dict[str, object]] = []
    measured = Results(kernels=[("gemm", 1.5)], keep=kept.append)
    with measured.attempt("kernels"):
        raise RuntimeError("no profiler here\nand much more")
    assert kept == [{"rates": {}, "notes": measured.notes, "kernels": [("gemm", 1.5)]}]
    measured.rates["plain 1"] = measure(lambda: None, 1.0, 0.0)
    assert measured.notes == {"kernels": "RuntimeError: no profiler here"}
    assert measured.rates["plain 1"].least <= measured.rates["plain 1"].median <= measured.rates["plain 1"].most
    assert "- kernels: RuntimeError: no profiler here" in measured.to_markdown()
    assert "| `gemm` | 1.500 |" in measured.to_markdown()
