from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service import exit_codes
from service.child import python_module
from service.cli import COMMANDS
from service.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]


def sonotag(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SONOTAG_")}
    child = python_module("service", *arguments, environ=inherited | environ)
    return subprocess.run(
        child.command, env=dict(child.environ), cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_names_every_command_and_the_exit_codes(tmp_path: Path) -> None:
    done = sonotag("--help", cwd=tmp_path)
    assert done.returncode == exit_codes.OK
    for command in COMMANDS:
        assert command.name in done.stdout
    assert "cannot start" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("srv",), ("version", "--nonsense"), ("settings", "stray")])
def test_wrong_usage_has_its_own_exit_code(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = sonotag(*arguments, cwd=tmp_path)
    assert done.returncode == exit_codes.USAGE
    assert "usage: sonotag" in done.stderr


def test_version_is_text_or_json(tmp_path: Path) -> None:
    versions = json.loads(sonotag("version", "--json", cwd=tmp_path).stdout)
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert f"numpy {versions['numpy']}" in sonotag("version", cwd=tmp_path).stdout.splitlines()


def test_settings_are_printed_with_value_origin_and_meaning(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SONOTAG_WORKERS=3\n")
    done = sonotag("settings", "--json", "--port", "9000", cwd=tmp_path, SONOTAG_HOST="10.0.0.1")
    assert done.returncode == exit_codes.OK, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert len(rows) == len(Settings.model_fields)
    shown = {name: (rows[name]["value"], rows[name]["origin"]) for name in ("SONOTAG_PORT", "SONOTAG_HOST", "SONOTAG_WORKERS")}
    assert shown == {
        "SONOTAG_PORT": ("9000", "flag"),
        "SONOTAG_HOST": ("10.0.0.1", "environment"),
        "SONOTAG_WORKERS": ("3", ".env"),
    }


def test_the_table_shows_every_setting_whole(tmp_path: Path) -> None:
    table = sonotag("settings", cwd=tmp_path).stdout
    for name in Settings.model_fields:
        assert f"SONOTAG_{name.upper()} " in table


def test_the_table_for_documents_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    table = sonotag("settings", "--markdown", cwd=tmp_path, SONOTAG_PORT="9000").stdout
    assert "| `SONOTAG_PORT` | `8000` | 0 to 65535 |" in table
    assert "`ast-tiny-16-16-5s=service/bundles/ast-tiny-16-16-5s`" in table
    assert str(REPOSITORY) not in table


def test_a_bad_setting_is_one_line_and_its_own_exit_code(tmp_path: Path) -> None:
    done = sonotag("settings", cwd=tmp_path, SONOTAG_PORT="70000")
    assert done.returncode == exit_codes.START
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sonotag settings: SONOTAG_PORT is '70000'")


def test_an_unknown_variable_is_warned_about(tmp_path: Path) -> None:
    done = sonotag("settings", "--json", cwd=tmp_path, SONOTAG_PROT="1")
    assert done.returncode == exit_codes.OK
    assert "did you mean SONOTAG_PORT?" in done.stderr


def test_a_reader_that_has_enough_is_no_traceback(tmp_path: Path) -> None:
    child = python_module("service", "settings")
    process = subprocess.Popen(
        child.command, env=dict(child.environ), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def make_exporter(folder: Path, body: str) -> dict[str, str]:
    """A package `export` that stands before ours, with stand-ins for what the real one needs."""
    (folder / "export").mkdir()
    (folder / "export" / "__init__.py").touch()
    (folder / "export" / "__main__.py").write_text(body)
    for name in ("torch", "transformers", "onnx", "onnxscript", "safetensors"):
        (folder / f"{name}.py").touch()
    return {"PYTHONPATH": str(folder)}


def test_export_passes_arguments_output_and_exit_code_on(tmp_path: Path) -> None:
    environ = make_exporter(tmp_path, "import sys; print('out', *sys.argv[1:]); print('err', file=sys.stderr); sys.exit(7)")
    done = sonotag("export", "--help", "folder", "--window", "5", cwd=tmp_path, **environ)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out --help folder --window 5\n", "err\n")


def test_export_that_a_signal_ended_says_so_as_shells_do(tmp_path: Path) -> None:
    environ = make_exporter(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert sonotag("export", cwd=tmp_path, **environ).returncode == 128 + signal.SIGKILL


def test_export_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    # As where only the service is installed: torch is nowhere to be found.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'torch' else real(name, package)\n"
    )
    done = sonotag("export", "folder", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == exit_codes.START
    assert "torch" in done.stderr
    assert "missing" in done.stderr
    assert "sonotag[export]" in done.stderr


def test_a_folder_of_the_user_is_not_taken_for_our_package(tmp_path: Path) -> None:
    for name in ("service", "export"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    assert sonotag("version", cwd=tmp_path).returncode == exit_codes.OK


def test_the_command_line_imports_only_what_a_command_needs(tmp_path: Path) -> None:
    code = "import sys; from service.cli import run_command; run_command(['version']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.splitlines()[-1]
    for heavy in ("'fastapi'", "'onnxruntime'", "'prometheus_client'", "'torch'"):
        assert heavy not in loaded


def test_a_gpu_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    done = sonotag("serve", "--port", "0", "--gpus", "250", cwd=tmp_path)
    assert done.returncode == exit_codes.START
    assert re.search(r"GPU 250 is not there: .*\(SONOTAG_GPUS\)", done.stderr)
