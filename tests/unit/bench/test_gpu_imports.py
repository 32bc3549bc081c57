"""A borrowed machine has no web framework and no resampler: the model is measured without what serving needs."""

from __future__ import annotations

import subprocess
import sys

from tests.support.shared import REPOSITORY

SERVING = (
    *("fastapi", "fastapi_offline", "starlette", "uvicorn", "uvloop", "websockets", "soxr", "av", "pydantic_settings"),
    *("prometheus_client", "python_multipart", "jwt", "matplotlib", "openvino", "ai_edge_litert"),
)
MODULES = tuple(
    f"bench.gpu.{name}" for name in ("__main__", "machine", "subject", "race", "float8", "ways", "processes", "compiled")
)


def test_the_parts_of_the_model_are_imported_without_what_serving_needs() -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({SERVING})); import {', '.join(MODULES)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
