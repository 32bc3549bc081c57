"""What browsers get: plain files, served as they are."""

from pathlib import Path

INDEX_FILE = Path(__file__).parent / "index.html"
