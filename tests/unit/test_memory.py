from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT_HEAPS = """
import ctypes, threading
from service.memory import limit_heaps
limit_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.open_memstream.restype = libc.malloc.restype
num_threads = 8
together = threading.Barrier(num_threads)
def hold():
    together.wait()
    libc.malloc(ctypes.c_size_t(1000))
    together.wait()
threads = [threading.Thread(target=hold) for _ in range(num_threads)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
text, size = ctypes.c_char_p(), ctypes.c_size_t()
stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
libc.malloc_info(0, stream)
libc.fclose(stream)
print(text.value.count(b"<heap nr="))
"""


def count_heaps(**environ: str) -> int:
    """Let eight threads allocate in a process of its own; return how many heaps glibc made for them."""
    run = subprocess.run(
        [sys.executable, "-c", COUNT_HEAPS], env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are glibc's")
def test_threads_share_two_heaps_unless_the_operator_says_otherwise() -> None:
    assert count_heaps() == 2
    assert count_heaps(MALLOC_ARENA_MAX="5") == 5
