"""Print what an image is locked from, out of pyproject.toml: `requirements.py cpu|cuda PYPROJECT`; `make lock` calls it.

The project takes onnxruntime-gpu on Linux, which also runs without a GPU but is 200 MB larger. The target `cpu` takes
onnxruntime in its place, `cuda` takes the CUDA libraries of the extra on top. It is never both: they share a folder.
"""

import re
import sys
import tomllib
from pathlib import Path


def choose(project: dict[str, object], target: str) -> list[str]:
    """Return the requirements of a target, as lines for pip."""
    dependencies: list[str] = project["dependencies"]  # type: ignore[assignment]
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    if target == "cuda":
        return [*dependencies, *extras["cuda"]]
    runtimes = [line for line in dependencies if re.match(r"onnxruntime\b(?!-)", line)]
    others = [line for line in dependencies if not line.startswith("onnxruntime")]
    return [*others, *(line.partition(";")[0].strip() for line in runtimes)]


if __name__ == "__main__":
    _, wanted, file = sys.argv
    if wanted not in {"cpu", "cuda"}:
        sys.exit(f"the targets are cpu and cuda, not {wanted!r}")
    print("\n".join(choose(tomllib.loads(Path(file).read_text())["project"], wanted)))
