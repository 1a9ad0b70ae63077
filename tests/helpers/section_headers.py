# SPDX-License-Identifier: Apache-2.0
"""Objects whose sections are odd: headers that are read and changed, and what such objects give."""

from __future__ import annotations

import functools
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain
from elf_writer import STB_GLOBAL, STT_OBJECT, Section, function, symbol

SHF_GNU_RETAIN, SHF_X86_64_LARGE, SHF_EXCLUDE = 0x200000, 0x10000000, 0x80000000
TYPE, FLAGS, OFFSET, SIZE, INFO, ENTRY = (
    (4, "I"),
    (8, "Q"),
    (24, "Q"),
    (32, "Q"),
    (44, "I"),
    (56, "Q"),
)

PICKS = """
#include "safe_call.h"
int table[4] = {1, 20, 300, 4000};
int* const second = &table[1];
__attribute__((noinline)) int pick(int i) { return table[i]; }
__attribute__((noinline)) int choose(int i) {
  switch (i) {
    case 0: return pick(3);
    case 1: return *second / 2;
    case 2: return pick(1) - 7;
    case 3: return table[0] = 5;
    default: return -1;
  }
}
EXPORT(run) { RETURN(pick(INT(0)) * 10 + *second + choose(INT(0))); }
"""
ARGUMENTS = (0, 1, 2, 3)


def headers(content: bytes) -> Iterator[tuple[str, int]]:
    """Give the name of each section of an object, and where its header lies."""
    table, count, names = (
        struct.unpack_from("<Q", content, 40)[0],
        *struct.unpack_from("<HH", content, 60),
    )
    (strings,) = struct.unpack_from("<Q", content, table + 64 * names + OFFSET[0])
    for at in range(table, table + 64 * count, 64):
        begin = strings + struct.unpack_from("<I", content, at)[0]
        yield content[begin : content.index(b"\0", begin)].decode(), at


def field(content: bytes, name: str, which: tuple[int, str]) -> int:
    """Return a field of the header of section `name`."""
    at = dict(headers(content))[name]
    value: int = struct.unpack_from(f"<{which[1]}", content, at + which[0])[0]
    return value


def changed(content: bytes, name: str, which: tuple[int, str], value: int) -> bytes:
    """Return the object with another value in a field of the header of section `name`."""
    result = bytearray(content)
    at = dict(headers(content))[name]
    struct.pack_into(f"<{which[1]}", result, at + which[0], value)
    return bytes(result)


def names_of_type(content: bytes, kind: int) -> list[str]:
    return [
        name
        for name, at in headers(content)
        if struct.unpack_from("<I", content, at + TYPE[0])[0] == kind
    ]


@functools.cache
def has_flags(toolchain: Toolchain, *flags: str) -> bool:
    """Tell whether a compiler takes the flags."""
    command = [toolchain.cc, *flags, "-c", "-x", "c", "-o", "/dev/null", "-"]
    done = subprocess.run(command, input="int n;\n", text=True, capture_output=True, check=False)
    return done.returncode == 0


def agrees(session: tol.Session, compile: Compiler, path: Path, reference: Path) -> None:
    """The functions named ``run`` of `path` and of the linked `reference` give the same."""
    dlopened = compile.dlopen(reference)
    loaded = session.load(path)
    results = [loaded["run"](argument) for argument in ARGUMENTS]
    assert results == [dlopened.run(argument) for argument in ARGUMENTS]
    assert results[0] != results[1]


def exporting(*extra: Section, section: int = 2, offset: int = 0) -> bytes:
    """Return an object with a ``variable`` at that place, besides the function ``f``.

    Of the sections, 1 is .text, 2 is .data and 3 is the first of `extra`.
    """
    variable = symbol(13, section, offset, 8, STT_OBJECT, STB_GLOBAL)
    return function(*extra, symbols=variable, names=b"variable\0")
