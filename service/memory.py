"""Memory that is no longer used, given back to the machine."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

# Source: mallopt(3), malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_VARIABLES = {
    _TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_",
    _MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_",
    _ARENA_MAX: "MALLOC_ARENA_MAX",
}
_SHORT_LIVED_BYTES, _LONG_LIVED_BYTES = 320 * 1024, 128 * 1024


def settle_allocator() -> None:
    """Have glibc keep little of what is freed. Call it before there are threads; its own variables, where they are set, win.

    Two heaps for all threads: glibc gives each its own, up to eight for a core, and keeps in each what was freed in it, and
    threads that decode and copy hold the same buffers in turns. What is larger than 320 KiB has pages of its own and leaves
    with them: glibc raises that to as much as was ever freed, and then models and clips leave holes. What is smaller, such as a
    window and what uvloop reads at once, does not ask the kernel for new pages each time, nor for a megabyte at the end of a
    heap: with glibc's 128 KiB for both a service made 0.92 of the windows out of clips of 30 s. Other C libraries than glibc do
    without.

    After each of five pairs of reloads the process held 101 to 110 MB by default, and 91 to 94 MB with this.
    """
    _set_option(_ARENA_MAX, 2)
    _set_option(_TRIM_THRESHOLD, 1024**2)
    _set_option(_MMAP_THRESHOLD, _SHORT_LIVED_BYTES)


@contextmanager
def long_lived() -> Iterator[None]:
    """Give what is made meanwhile, from 128 KiB on, pages of its own: a model's tensors would lie for hours between buffers
    that are gone in milliseconds."""
    _set_option(_MMAP_THRESHOLD, _LONG_LIVED_BYTES)
    try:
        yield
    finally:
        _set_option(_MMAP_THRESHOLD, _SHORT_LIVED_BYTES)


def _set_option(option: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _VARIABLES[option] not in os.environ:
        mallopt(option, value)


def release_memory() -> None:
    """Free what is unreachable and give free memory back to the system. Takes some ten milliseconds: call it in a thread.

    The parts of a model know each other, and the collector, which would free them, may not come by for hours. And what is freed
    stays with the process: glibc gives back what lies at the end of a heap only, and a model's buffers lie below what was made
    after them. Other C libraries than glibc do without.

    The embedded model in int8, anonymous memory of the process: 143 MB when it serves, 163 after one reload, 188 after eight;
    with this 94 and 111.
    """
    gc.collect()
    trim_heaps()


def trim_heaps() -> None:
    """Give free memory back to the system. Takes milliseconds: call it in a thread, others run meanwhile."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
