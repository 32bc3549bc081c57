"""Host memory that stays where it is, which a GPU copies from without a detour.

numpy's memory may be paged out, so a copy from it goes through a small buffer of the driver's, piece by piece. Memory that
is registered with CUDA is read by the GPU itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import weakref
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=np.generic)

# Of CUDA 13, 12 and 11. They have been loaded by then, by `service.inference.providers.prepare_cuda` or by torch.
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_ANY_CONTEXT = 1  # cudaHostRegisterPortable


class CudaRuntime(Protocol):
    """The two calls of CUDA's runtime library that this needs; both return 0 where they worked."""

    def cudaHostRegister(self, address: ctypes.c_void_p, num_bytes: ctypes.c_size_t, flags: ctypes.c_uint) -> int:  # noqa: N802
        """Keep memory where it is."""
        ...

    def cudaHostUnregister(self, address: ctypes.c_void_p) -> int:  # noqa: N802
        """Let it go again."""
        ...


@functools.cache
def find_cuda_runtime() -> CudaRuntime | None:
    """Return CUDA's runtime library where it can be loaded, else None."""
    for name in _LIBRARIES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


def allocate_pinned(shape: tuple[int, ...], kind: type[T], runtime: CudaRuntime | None = None) -> npt.NDArray[T]:
    """Return zeros in memory that a GPU copies from directly, or in plain memory where that cannot be had.

    Args:
        shape: Of the array.
        kind: Of its numbers.
        runtime: CUDA's library; the machine's own when it is not given.
    """
    array = np.zeros(shape, kind)
    runtime = runtime or find_cuda_runtime()
    if runtime is None or not array.nbytes:
        return array
    address = ctypes.c_void_p(array.ctypes.data)
    status = runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(_ANY_CONTEXT))
    if status != 0:
        logger.warning("CUDA cannot pin %d bytes of host memory (error %d); copies to the GPU are slower", array.nbytes, status)
        return array
    # The registration must end before the memory is free for others. At the process's end the driver does it itself.
    weakref.finalize(array, runtime.cudaHostUnregister, address).atexit = False
    return array
