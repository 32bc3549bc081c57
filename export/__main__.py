"""The command ``python -m export``."""

from __future__ import annotations

import sys

from export.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
