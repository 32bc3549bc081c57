"""Options for onnxruntime's TensorRT provider: engines for every length of window, made once and kept in a folder.

TensorRT compiles parts of a graph for one GPU and one version of itself, which takes minutes; the cache makes that once. What
it does not know runs on CUDA: it has no 16-bit integers, so whatever touches `waveform` (its cast, its shape), and none of
onnxruntime's own operators, so a fused graph runs in it only between its attentions; one exported with ``--portable`` has
standard operators only. Its precision is TensorRT's own choice of kernels, so the golden check at load matters even more here.

No shapes are named to it (``trt_profile_*_shapes``): these must name every input of every part, which are tensors inside of the
graph whose names follow from how onnxruntime divides it, and a session that misses one is not made. Without them an engine
covers the shapes that it has seen, and is compiled anew when one lies outside: hence `order_shapes`.
Source: tensorrt_execution_provider.cc; onnxruntime pull request 17007.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.inference.runner import Precision

FOLDER = Path("sonotag", "tensorrt")


def cache_folder(wanted: Path | None, environ: Mapping[str, str]) -> Path:
    """Return where engines are kept: the folder that was named, else one below the user's cache.

    Source: XDG base directory specification; a relative XDG_CACHE_HOME does not count.
    """
    if wanted is not None:
        return wanted
    home = Path(environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache").expanduser()) / FOLDER


def order_shapes(lengths_samples: Sequence[int], batch_sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return every length with every batch size in the order in which they should first run.

    The largest goes first, the others then find their memory there; the smallest second: between these two lies all that
    will ever run, so that TensorRT compiles twice and not once for each.

    Args:
        lengths_samples: Rising.
        batch_sizes: Rising.
    """
    shapes = [(length, size) for length in reversed(lengths_samples) for size in reversed(batch_sizes)]
    return shapes if len(shapes) < 2 else [shapes[0], shapes[-1], *shapes[1:-1]]


def engine_options(folder: Path, source_sha256: str, precision: Precision) -> dict[str, str]:
    """Return the provider's options.

    Args:
        folder: Where engines are kept; made here if it is not there.
        source_sha256: Of the checkpoint: engines of different models never meet under one name.
        precision: fp16 lets TensorRT use half precision.

    Raises:
        OSError: The folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = os.fspath(folder)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": path,
        "trt_engine_cache_prefix": f"{source_sha256[:16]}-{precision}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": path,
        "trt_fp16_enable": "1" if precision == "fp16" else "0",
        "trt_layer_norm_fp32_fallback": "1",
    }
