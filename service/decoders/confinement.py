"""What a decoder process gives up before it reads a stranger's byte: memory without end, files, processes, sockets, programs.

It uses the kernel alone and needs no privileges: resource limits, and a seccomp filter that lets through what decoding calls
and answers EPERM to all else. (libseccomp's bindings on PyPI were last released in 2021 and load a system library; a filter
without rules about arguments is forty instructions.)
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import resource
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

MAX_FILES = 16
"""Descriptors of a decoder: its socket, the three standard ones, and the file it was handed."""

# Source: the kernel's tables, arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. Often called
# first. What is missing on purpose: everything that opens, creates, connects, executes, forks, signals or traces.
_SYSCALLS: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "lseek": (8, 62),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "brk": (12, 214),
    "madvise": (28, 233),
    "mprotect": (10, 226),
    "futex": (202, 98),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "pread64": (17, 67),
    "readv": (19, 65),
    "write": (1, 64),
    "writev": (20, 66),
    "close": (3, 57),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "fcntl": (72, 25),
    "ppoll": (271, 73),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getrandom": (318, 278),
    "rseq": (334, 293),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_X86_ONLY = (7,)  # poll, which other machines do by ppoll
_AUDIT_ARCHES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

# Source: include/uapi/linux/prctl.h, seccomp.h and bpf_common.h.
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_RET_ALLOW, _RET_ERRNO, _RET_KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine(memory_bytes: int) -> None:
    """Limit this process for the rest of its life: it can read what it was handed, and answer.

    Args:
        memory_bytes: Address space beyond what is mapped now.

    Raises:
        OSError: The kernel refuses the filter; the limits are in force then.
    """
    limit_resources(memory_bytes)
    _filter_system_calls()


def limit_resources(memory_bytes: int) -> None:
    """Set the limits that every Unix knows. The limit of CPU time is for the parent to set, anew for each job."""
    limits = {
        resource.RLIMIT_CORE: 0,  # an image of the process is a stranger's sound on the disk
        resource.RLIMIT_FSIZE: 0,  # no file grows
        resource.RLIMIT_NOFILE: MAX_FILES,
        resource.RLIMIT_NPROC: 0,  # of the user, so that it forbids every fork and thread; root is exempt, the filter is not
    }
    statm = Path("/proc/self/statm")
    if statm.exists():
        limits[resource.RLIMIT_AS] = int(statm.read_text().split()[0]) * resource.getpagesize() + memory_bytes
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (allowed, allowed))


def find_gaps(memory_bytes: int) -> list[str]:
    """Return what of the confinement does not hold in this process, in words: tried, not assumed.

    Args:
        memory_bytes: What `confine` was told, which was called before.
    """
    missing = []
    if _can(lambda: os.close(os.open("/", os.O_RDONLY))):
        missing.append("files can be opened")
    if _can(lambda: socket.socket(socket.AF_INET).close()):
        missing.append("sockets can be opened")
    if _can(lambda: os.execv("/proc/self/nothing", ["nothing"])):
        missing.append("programs can be executed")
    try:
        mmap.mmap(-1, 2 * memory_bytes).close()
    except OSError:
        pass
    else:
        missing.append("memory is not limited")
    return missing


def _can(action: Callable[[], object]) -> bool:
    """Whether the kernel lets an action come as far as its own answer, be that a success or another error."""
    try:
        action()
    except OSError as error:
        return error.errno != errno.EPERM
    return True


def _filter_system_calls() -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "seccomp is Linux's")
    known = _AUDIT_ARCHES.get(platform.machine())
    if known is None:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    code = _make_program(*known)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(*arguments, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def _make_program(audit_arch: int, column: int) -> bytes:
    """Return the filter as classic BPF. Another architecture's calls (x86's 32-bit ones) have other numbers: they kill."""
    allowed = [numbers[column] for numbers in _SYSCALLS.values()] + (list(_X86_ONLY) if column == 0 else [])
    steps = [
        (_LOAD_WORD, 0, 0, _ARCH_OFFSET),
        (_JUMP_IF_EQUAL, 1, 0, audit_arch),
        (_RETURN, 0, 0, _RET_KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
    ]
    for number in allowed:
        steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _RET_ALLOW)]
    steps.append((_RETURN, 0, 0, _RET_ERRNO | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
