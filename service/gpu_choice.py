"""Which GPU a worker uses: it is shown that one and no other.

CUDA numbers what it is shown from 0, so the rest of the service needs no number; and a library that forgets to choose a GPU
cannot take memory on another worker's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from service.errors import SettingsError

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
ORDER: Final = "CUDA_DEVICE_ORDER"
"""CUDA counts the fastest GPU first unless this says otherwise; nvidia-smi counts by their place on the bus."""


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


def _shown(environ: Mapping[str, str]) -> list[str]:
    return [part.strip() for part in environ.get(VISIBLE, "").split(",") if part.strip()]
