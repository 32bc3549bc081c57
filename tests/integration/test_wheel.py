"""The wheel, installed into an empty environment, serves from any folder: what it needs is in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from service import exit_codes
from tests.support.process import clean_environ, running_command

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel, and sees the libraries of this one but none of the repository's packages."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", str(folder)), check=True)
    python = folder / "bin" / "python"
    command = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        str(wheel),
    )
    subprocess.run(command, check=True)
    [site] = folder.glob("lib/python*/site-packages")
    # A line of a .pth file is put on the path, but the .pth files in there (the editable install's) are not read.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def test_the_wheel_holds_the_bundle_and_the_web_files_and_no_more_than_it_needs(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("service/bundles", "service/web"):
        held = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / folder).rglob("*") if path.is_file()}
        held = {name for name in held if "__pycache__" not in name}
        assert held, folder
        assert held <= names
    assert {"service/py.typed", "export/__main__.py"} <= names
    assert not [name for name in names if name.startswith(("tests/", "examples/", "export/checkpoints/"))]
    assert wheel.stat().st_size < 25_000_000


def test_the_command_is_installed_and_is_the_wheels_own(environment: Path, tmp_path: Path) -> None:
    code = "import service, export; print(service.__file__, export.__file__)"
    done = subprocess.run(
        (environment / "bin" / "python", "-c", code), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert all(Path(file).is_relative_to(environment) for file in done.stdout.split())
    done = subprocess.run(
        (environment / "bin" / "sonotag", "version"), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert f"sonotag {version('sonotag')}\n" in done.stdout


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_the_installed_service_answers_from_another_folder(workers: str, environment: Path, tmp_path: Path) -> None:
    command = (str(environment / "bin" / "sonotag"), "serve", "--workers", workers)
    environ = clean_environ(PYTHONPATH="", PATH=os.defpath)
    with running_command(command, environ=environ, cwd=tmp_path) as service:
        url = service.wait_ready()
        with (REPOSITORY / "examples" / "speech.wav").open("rb") as file:
            answer = httpx.post(url + "/v1/classify", files={"file": file}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["tags"][0]["label"] == "Speech"
        page = httpx.get(url + "/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "sonotag_model_info{" in httpx.get(url + "/metrics").text
        assert service.end_cleanly() == exit_codes.OK, service.stderr
