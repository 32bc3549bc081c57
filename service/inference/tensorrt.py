"""Options for onnxruntime's TensorRT provider: an engine for every length of window, made once and kept in a folder.

TensorRT compiles a graph for one GPU and one version of itself, which takes minutes; the cache makes that once. It knows none
of onnxruntime's own operators: a graph exported with ``--portable`` runs in it whole, a fused one only between its attentions,
with CUDA for the rest. Its precision is TensorRT's own choice of kernels, so the golden check at load matters even more here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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


def engine_options(
    folder: Path, source_sha256: str, precision: Precision, *, min_samples: int, window_samples: int, max_batch_size: int
) -> dict[str, str]:
    """Return the provider's options.

    Args:
        folder: Where engines are kept; made here if it is not there.
        source_sha256: Of the checkpoint: engines of different models never meet under one name.
        precision: fp16 lets TensorRT use half precision.
        min_samples: The shortest length of window that the graph takes.
        window_samples: The longest.
        max_batch_size: The most windows in a run.

    Raises:
        OSError: The folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = os.fspath(folder)
    # One profile over all shapes: without it an engine is compiled anew for each size that comes for the first time.
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": path,
        "trt_engine_cache_prefix": f"{source_sha256[:16]}-{precision}",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": path,
        "trt_fp16_enable": "1" if precision == "fp16" else "0",
        "trt_layer_norm_fp32_fallback": "1",
        "trt_profile_min_shapes": f"waveform:1x{min_samples},lengths:1",
        "trt_profile_opt_shapes": f"waveform:{max_batch_size}x{window_samples},lengths:{max_batch_size}",
        "trt_profile_max_shapes": f"waveform:{max_batch_size}x{window_samples},lengths:{max_batch_size}",
    }
