"""Which GPU a worker uses, and how much of its memory: it is shown that one and no other.

CUDA numbers what it is shown from 0, so the rest of the service needs no number; and a library that forgets to choose a GPU
cannot take memory on another worker's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from service.errors import SettingsError

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
"""CUDA counts the fastest GPU first unless this says otherwise; nvidia-smi counts by their place on the bus."""
MEMORY_SHARE: Final = 0.9
"""Of a GPU's memory, what the sessions of all workers on it may hold together. The rest is for what onnxruntime does not count:
each process's context and kernels, and captured graphs. Chosen, not measured."""


def choose_gpu(environ: Mapping[str, str], gpus: tuple[int, ...], worker: int) -> dict[str, str]:
    """Return the variables that show a worker its GPU.

    Args:
        environ: The environment that the service was started in. Where it shows some GPUs only, the numbers count those.
        gpus: SONOTAG_GPUS; empty leaves the choice to CUDA, which takes the first.
        worker: The worker's number, from 0: worker i gets the i-th GPU, and after the last one the first again.
    """
    if not gpus:
        return {}
    gpu = gpus[worker % len(gpus)]
    shown = _shown(environ)
    if shown:
        return {VISIBLE: shown[gpu]}
    return {VISIBLE: str(gpu), ORDER: environ.get(ORDER) or "PCI_BUS_ID"}


def check_gpus(environ: Mapping[str, str], gpus: tuple[int, ...], num_workers: int, num_gpus: int | None) -> None:
    """Refuse GPUs that are not there.

    Args:
        environ: The environment.
        gpus: SONOTAG_GPUS.
        num_workers: SONOTAG_WORKERS.
        num_gpus: How many the driver shows; None where there is no driver.

    Raises:
        SettingsError: One is not there, or would have no worker.
    """
    if not gpus:
        return
    shown = _shown(environ)
    count = len(shown) if shown else num_gpus or 0
    for gpu in gpus:
        if gpu >= count:
            there = f"{VISIBLE} shows {count}" if shown else f"this machine shows {count or 'none'}"
            numbers = f", numbered from 0 to {count - 1}" if count else ""
            raise SettingsError(f"GPU {gpu} is not there: {there}{numbers} (SONOTAG_GPUS)")
    if num_workers < len(gpus):
        raise SettingsError(
            f"{len(gpus)} GPUs and {num_workers} workers: each GPU needs a worker of its own (SONOTAG_GPUS, SONOTAG_WORKERS)"
        )


def count_workers(gpus: Sequence[int]) -> int:
    """Return how many workers there are where nobody says it: one, or one for each GPU.

    Why not more on a GPU: measured earlier on one H100 with base in float16 (docs/performance.md), one process that runs two
    batches at once made 1,388 windows/s, two processes 1,257 to 1,282, four 1,260 to 1,283; and each takes 1.2 GiB of the GPU.
    More are right only where one process cannot carry the sound of all streams.
    """
    return max(1, len(gpus))


def share_gpu_memory(totals: Sequence[int | None], gpus: Sequence[int], num_workers: int) -> int | None:
    """Return how many bytes of its GPU's memory the models of one worker may hold.

    Without a limit the worker that has the largest batches first keeps what they took, and the last one to start finds nothing
    left; with it, each runs out of its own part, where a batch is run in halves.

    Args:
        totals: The memory of each GPU of this machine; None where the driver does not tell. The smallest counts.
        gpus: SONOTAG_GPUS.
        num_workers: SONOTAG_WORKERS.

    Returns:
        The bytes; None for no limit, where the GPU is not shared or its memory is not known.
    """
    num_sharing = -(-num_workers // max(1, len(gpus)))
    known = [total for total in totals if total]
    return int(MEMORY_SHARE * min(known)) // num_sharing if num_sharing > 1 and known else None


def _shown(environ: Mapping[str, str]) -> list[str]:
    return [part.strip() for part in environ.get(VISIBLE, "").split(",") if part.strip()]
