from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT_HEAPS = """
import ctypes, threading
from service.memory import settle_allocator
settle_allocator()
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


def run_alone(program: str, **environ: str) -> str:
    """Run a program in a process of its own; return what it prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="heaps are glibc's")
def test_threads_share_two_heaps_unless_the_operator_says_otherwise() -> None:
    """Eight allocate at once."""
    assert run_alone(COUNT_HEAPS) == "2"
    assert run_alone(COUNT_HEAPS, MALLOC_ARENA_MAX="5") == "5"


BUFFER_LIES_IN_HEAP = """
import ctypes
from service.memory import settle_allocator
settle_allocator()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
def make(num_bytes):
    return ctypes.c_void_p(libc.malloc(ctypes.c_size_t(num_bytes)))
libc.free(make(20 * 2**20))
print(make(2**20).value < libc.sbrk(ctypes.c_size_t(0)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="thresholds are glibc's")
@pytest.mark.parametrize(("environ", "lies_in_heap"), [({}, "False"), ({"MALLOC_MMAP_THRESHOLD_": "30000000"}, "True")])
def test_a_large_buffer_has_pages_of_its_own_also_after_a_larger_one_was_freed(
    environ: dict[str, str], lies_in_heap: str
) -> None:
    assert run_alone(BUFFER_LIES_IN_HEAP, **environ) == lies_in_heap


BUFFER_OF_A_MODEL = """
import ctypes
from service.memory import long_lived, settle_allocator
settle_allocator()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
def lies_in_heap():
    return ctypes.c_void_p(libc.malloc(ctypes.c_size_t(200 * 1024))).value < libc.sbrk(ctypes.c_size_t(0))
before = lies_in_heap()
with long_lived():
    meanwhile = lies_in_heap()
print(before, meanwhile, lies_in_heap())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="thresholds are glibc's")
def test_a_window_lies_in_the_heap_and_what_a_model_is_made_of_does_not() -> None:
    assert run_alone(BUFFER_OF_A_MODEL) == "True False True"
    assert run_alone(BUFFER_OF_A_MODEL, MALLOC_MMAP_THRESHOLD_="30000000") == "True True True"
