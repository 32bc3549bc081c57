"""One target under atheris: `python -m tests.fuzz.guided TARGET [libFuzzer's options] [CORPUS]`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["service"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run until libFuzzer is done; it ends the process."""
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
