from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import clean_environ
from tests.support.shared import REPOSITORY


@pytest.mark.parametrize(
    "module", ["service.inference.onnx_runner", "service.inference.providers", "service.app", "export.verify"]
)
def test_nothing_is_reported_to_the_maker_of_the_engine(module: str, tmp_path: Path) -> None:
    """ONNX Runtime's reports go under an identifier that it keeps in the home folder: none is made."""
    environ = clean_environ(HOME=str(tmp_path), XDG_CACHE_HOME="")
    environ.pop("ORT_DISABLE_TELEMETRY", None)
    code = f"import {module}; from service.inference import providers as p; p.create_session(p._PROBE, 'cpu', num_threads=1)"
    done = subprocess.run((sys.executable, "-c", code), cwd=REPOSITORY, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*")) == []
