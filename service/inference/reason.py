"""What an error of onnxruntime or of a library under it says, in one line."""

from __future__ import annotations

import re
from typing import Final

_NOISE: Final = re.compile(r"/\S+\.(?:cc|cu|h):\d+ .*(?=\b[A-Z][A-Z_]+ failure -?\d+: )")
"""Some 600 characters of onnxruntime's sources and of C++ stand before the words "CUDA failure 2: out of memory"."""


def read_reason(error: BaseException, max_length: int = 300) -> str:
    """Return the first line of what an error says, without what stands before the failure that it names, or else its class."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _NOISE.sub("", line).strip()[:max_length]
