# SPDX-License-Identifier: Apache-2.0
"""System calls that the kernel refuses, by a filter (seccomp) that a process or thread takes on.

A filter cannot be taken off again. It holds for the thread that takes it on and for the threads and
processes that come from it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from processors import PROCESSOR

CALLS = PROCESSOR.calls
PROT_EXEC = 4
O_TMPFILE = 0o20000000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
PR_SET_NO_NEW_PRIVS = 38
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


class Refused(NamedTuple):
    """A call that is refused: always, or where `mask` of the argument is `value`."""

    call: str
    error: int = errno.EPERM
    argument: int = 0
    mask: int = 0
    value: int = 0


# The ways to memory for code, the first one first. What becomes executable was writable before, but
# in the second and the third.
MAPPED_TWICE = Refused("mremap", argument=1, mask=0xFFFFFFFF)  # an old size of 0
FILE_IN_MEMORY = Refused("memfd_create", errno.ENOSYS)
FILE_WITHOUT_NAME = Refused("openat", errno.EACCES, 2, O_TMPFILE, O_TMPFILE)
BECOMES_EXECUTABLE = Refused("mprotect", errno.EACCES, 2, PROT_EXEC, PROT_EXEC)
MAPPED_EXECUTABLE = Refused("mmap", errno.EPERM, 2, PROT_EXEC, PROT_EXEC)


def program(refused: Iterable[Refused]) -> bytes:
    """Return the filter as the kernel's virtual machine runs it (BPF)."""
    load, equal, both, result = 0x20, 0x15, 0x54, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000
    number, low, high = 0, 16, 20  # in struct seccomp_data

    def step(code: int, value: int, if_not: int = 0) -> bytes:
        return struct.pack("<HBBI", code, 0, if_not, value)

    steps = []
    for call, error, argument, mask, value in refused:
        steps.append(step(load, number))
        if mask:
            steps.append(step(equal, CALLS[call], 6))
            steps.append(step(load, high + 8 * argument))
            steps.append(step(equal, 0, 4))
            steps.append(step(load, low + 8 * argument))
            steps.append(step(both, mask))
            steps.append(step(equal, value, 1))
        else:
            steps.append(step(equal, CALLS[call], 1))
        steps.append(step(result, refuse | error))
    return b"".join([*steps, step(result, allow)])


def refuse(*refused: Refused) -> None:
    """Have the kernel refuse these calls of this thread, and of those that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = program(refused)
    held = ctypes.create_string_buffer(steps, len(steps))
    description = struct.pack("@HP", len(steps) // 8, ctypes.addressof(held))
    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, one, none, none, none) != 0 or (
        libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), description) != 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp: " + os.strerror(ctypes.get_errno()))


def deny_write_execute() -> None:
    """Let nothing become executable in this process, as MemoryDenyWriteExecute= of systemd does."""
    libc = ctypes.CDLL(None, use_errno=True)
    none = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_MDWE, ctypes.c_ulong(PR_MDWE_REFUSE_EXEC_GAIN), none, none, none) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_MDWE: " + os.strerror(ctypes.get_errno()))


@functools.cache
def why_not(call: str = "refuse(FILE_IN_MEMORY)") -> str:
    """Return why no process can take such a filter on here, or nothing."""
    result = subprocess.run(
        [sys.executable, "-c", f"from refused_calls import *; {call}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parent)},
    )
    return result.stderr.strip().rpartition("\n")[2]
