from __future__ import annotations

import ctypes
import gc
import logging

import numpy as np
import pytest

from service.inference.pinned import allocate_pinned


class FakeRuntime:
    """CUDA's runtime library, which writes down what is pinned."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.pinned: dict[int, int] = {}

    def cudaHostRegister(self, address: ctypes.c_void_p, num_bytes: ctypes.c_size_t, flags: ctypes.c_uint) -> int:  # noqa: N802
        if self.status == 0:
            assert address.value is not None
            self.pinned[address.value] = num_bytes.value
        return self.status

    def cudaHostUnregister(self, address: ctypes.c_void_p) -> int:  # noqa: N802
        assert address.value is not None
        del self.pinned[address.value]
        return 0


def test_memory_is_pinned_until_nobody_looks_at_it_any_more() -> None:
    runtime = FakeRuntime()
    array = allocate_pinned((3, 400), np.int16, runtime)
    assert not array.any()
    assert runtime.pinned == {array.ctypes.data: 2400}
    view = array[1:2]
    del array
    gc.collect()
    assert len(runtime.pinned) == 1
    del view
    gc.collect()
    assert runtime.pinned == {}


def test_memory_that_cannot_be_pinned_is_plain_memory_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    runtime = FakeRuntime(status=35)
    with caplog.at_level(logging.WARNING):
        array = allocate_pinned((2, 2), np.int16, runtime)
    assert array.shape == (2, 2)
    assert "cannot pin 8 bytes of host memory (error 35)" in caplog.text
