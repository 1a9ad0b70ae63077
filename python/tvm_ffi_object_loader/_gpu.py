# SPDX-License-Identifier: Apache-2.0
"""GPU code in a file, its architectures, and the GPUs of this machine."""

from __future__ import annotations

import functools
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

_FAT_MAGIC = struct.pack("<I", 0xBA55ED50)
_CUBIN_MAGIC = b"\x7fELF\x02\x01"
_PTX_TARGET = re.compile(rb"\.target[ \t]+(sm_\d+[af]?)")
# Kinds and flags of a fat binary's entries, as nvcc 13 writes them.
_PTX, _ELF = 1, 2
_ACCELERATED, _FAMILY = 1 << 20, 1 << 21
_EM_CUDA = 190

# Prints the compute capability of each GPU. In a process of its own, since a process that has
# initialized CUDA cannot use it after a fork.
_ASK = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
count = ctypes.c_int()
if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
    for device in range(count.value):
        major, minor = ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        print(f"{major.value}.{minor.value}")
"""


class Found(NamedTuple):
    """GPU code in a range of bytes."""

    kind: str  # "cubin" or "PTX"
    architecture: str  # "sm_90a"
    offset: int


def cubin_architecture(header: bytes) -> str | None:
    """Return the architecture that an ELF header says a cubin is for."""
    if len(header) < 52 or header[:6] != _CUBIN_MAGIC:
        return None
    if struct.unpack_from("<H", header, 18)[0] != _EM_CUDA:
        return None
    (flags,) = struct.unpack_from("<I", header, 48)
    # The ABI's eighth version moved both fields.
    if header[8] >= 8:
        number, accelerated = flags >> 8 & 0xFF, flags & 8
    else:
        number, accelerated = flags & 0xFF, flags & 0x800
    return f"sm_{number}{'a' if accelerated else ''}"


def find(data: bytes) -> Iterator[Found]:
    """Yield the GPU code in these bytes: fat binaries, cubins, PTX."""
    covered = []
    position = data.find(_FAT_MAGIC)
    while position >= 0:
        end = position + 4
        if position + 16 <= len(data):
            header, size = struct.unpack_from("<HQ", data, position + 6)
            if header >= 16 and position + header + size <= len(data):
                end = position + header + size
                covered.append((position, end))
                yield from _fat_entries(data, position + header, end)
        position = data.find(_FAT_MAGIC, end)

    def is_covered(place: int) -> bool:
        return any(start <= place < end for start, end in covered)

    position = data.find(_CUBIN_MAGIC)
    while position >= 0:
        architecture = cubin_architecture(data[position : position + 64])
        if architecture is not None and not is_covered(position):
            yield Found("cubin", architecture, position)
        position = data.find(_CUBIN_MAGIC, position + 1)
    for match in _PTX_TARGET.finditer(data):
        if not is_covered(match.start()):
            yield Found("PTX", match[1].decode(), match.start())


def _fat_entries(data: bytes, position: int, end: int) -> Iterator[Found]:
    while position + 48 <= end:
        kind, _, header, size = struct.unpack_from("<HHIQ", data, position)
        number, flags = struct.unpack_from("<I8xQ", data, position + 28)
        if header < 48 or position + header + size > end:
            return
        content = position + header
        # What it was compiled for; a cubin's own header tells only what it makes use of.
        suffix = "a" if flags & _ACCELERATED else "f" if flags & _FAMILY else ""
        if kind in (_PTX, _ELF):
            yield Found("PTX" if kind == _PTX else "cubin", f"sm_{number}{suffix}", content)
        position = content + size


@functools.cache
def capabilities() -> tuple[tuple[int, int], ...]:
    """Return the compute capabilities of this machine's GPUs; none where there is no driver."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.findall(r"^(\d+)\.(\d+)$", result.stdout, re.MULTILINE)
    return tuple((int(major), int(minor)) for major, minor in found)


def runs_on(kind: str, architecture: str, capability: tuple[int, int]) -> bool:
    """Tell whether GPU code runs on a GPU of this compute capability.

    A cubin runs on GPUs of the same major version and at least its minor one; PTX is compiled for
    any that is not older. Code for ``sm_90a`` runs on 9.0 alone, for ``sm_100f`` in its family.
    """
    match = re.fullmatch(r"sm_(\d+)(\d)([af]?)", architecture)
    if match is None:
        return False
    own = int(match[1]), int(match[2])
    if match[3] == "a":
        return own == capability
    if kind == "cubin" or match[3] == "f":
        return own[0] == capability[0] and own[1] <= capability[1]
    return own <= capability
