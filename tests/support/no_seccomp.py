"""A kernel without seccomp, as far as a program can tell: `python -m tests.support.no_seccomp MODULE [ARGUMENTS]`.

The module runs behind a filter that knows no other filter: whoever asks for one is told EINVAL, as by a kernel built without.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# Source: include/uapi/linux/prctl.h, seccomp.h and bpf_common.h; the kernel's tables of system calls.
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 16
PRCTL = {"x86_64": 157, "aarch64": 167}
"""The number of the call, by machine."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def forbid_filters() -> None:
    """Have the kernel refuse every further filter of this process and of those that it starts.

    Raises:
        OSError: It knows none itself.
    """
    steps = [
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_EQUAL, 0, 3, PRCTL[platform.machine()]),
        (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT_OFFSET),
        (_JUMP_IF_EQUAL, 0, 1, _PR_SET_SECCOMP),
        (_RETURN, 0, 0, _RET_ERRNO | errno.EINVAL),
        (_RETURN, 0, 0, _RET_ALLOW),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(*arguments, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


if __name__ == "__main__":
    forbid_filters()
    os.execv(sys.executable, [sys.executable, "-P", "-m", *sys.argv[1:]])
