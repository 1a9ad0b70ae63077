# SPDX-License-Identifier: Apache-2.0
"""Write relocatable objects that no compiler makes: every field is what the test says."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from processors import PROCESSOR

SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 3, 4, 8, 9
SHT_INIT_ARRAY, SHT_GROUP, SHT_RELR, SHT_CREL = 14, 17, 19, 0x40000014
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_GROUP, SHF_TLS = 1, 2, 4, 0x200, 0x400
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION = 0, 1, 2, 3
ABSOLUTE_64, RELATIVE_32 = PROCESSOR.absolute_64, PROCESSOR.relative_32
SHN_ABS = 0xFFF1
RETURN = PROCESSOR.return_nothing.ljust(16, b"\x90")


@dataclass
class Section:
    """A section; `offset` and `size`, where given, are what its header says of its content."""

    name: str
    type: int
    flags: int = 0
    content: bytes = b""
    link: str | int = 0
    info: str | int = 0
    alignment: int = 1
    entry: int = 0
    offset: Callable[[dict[str, int]], int] | None = None
    size: int | None = None


def symbol(
    name: int, section: int, value: int = 0, size: int = 0, kind: int = 0, binding: int = 0
) -> bytes:
    """Return an entry of a symbol table."""
    return struct.pack("<IBBHQQ", name, binding << 4 | kind, 0, section, value, size)


def relocation(offset: int, symbol: int, kind: int, addend: int = 0) -> bytes:
    """Return an entry of an SHT_RELA table."""
    return struct.pack("<QQQ", offset, symbol << 32 | kind, addend % (1 << 64))


def write(*sections: Section, machine: int = PROCESSOR.machine) -> bytes:
    """Return the object; `link` and `info` may be names of sections."""
    named = [*sections, Section(".shstrtab", SHT_STRTAB)]
    names = bytearray(b"\0")
    name_offsets = []
    for section in named:
        name_offsets.append(len(names))
        names += section.name.encode() + b"\0"
    named[-1].content = bytes(names)
    index = {section.name: number for number, section in enumerate(named, 1)}

    def number(of: str | int) -> int:
        return index[of] if isinstance(of, str) else of

    out = bytearray(64)
    offsets: dict[str, int] = {}
    for section in named:
        if section.offset is None:
            out += bytes(-len(out) % 16)
            offsets[section.name] = len(out)
            out += section.content
    out += bytes(-len(out) % 16)
    offsets["section headers"] = table = len(out)
    out += bytes(64)
    for section, name in zip(named, name_offsets, strict=True):
        size = len(section.content) if section.size is None else section.size
        out += struct.pack(
            "<IIQQQQIIQQ",
            name,
            section.type,
            section.flags,
            0,
            section.offset(offsets) if section.offset else offsets[section.name],
            size,
            number(section.link),
            number(section.info),
            section.alignment,
            section.entry,
        )
    counts = (64, 0, 0, 64, len(named) + 1, len(named))
    header = struct.pack("<HHIQQQIHHHHHH", 1, machine, 1, 0, 0, table, 0, *counts)
    out[:64] = b"\x7fELF\2\1\1".ljust(16, b"\0") + header
    return bytes(out)


def function(*extra: Section, symbols: bytes = b"", names: bytes = b"") -> bytes:
    """Return an object with the function ``f``, which returns nothing, and `extra`.

    `symbols`, from number 3 on, and their `names`, from offset 13 on, follow the function's.
    Symbol 1 is the section .data, of 16 bytes.
    """
    table = symbol(0, 0) + symbol(0, 2, kind=STT_SECTION)
    table += symbol(1, 1, size=3, kind=STT_FUNC, binding=STB_GLOBAL) + symbols
    return write(
        Section(".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, RETURN, alignment=16),
        Section(".data", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, bytes(16), alignment=8),
        *extra,
        Section(".symtab", SHT_SYMTAB, 0, table, ".strtab", 2, 8, 24),
        Section(".strtab", SHT_STRTAB, 0, b"\0__tvm_ffi_f\0" + names),
    )


def relocations(of: str, *entries: bytes, flags: int = 0, name: str = "") -> Section:
    """Return the SHT_RELA table of section `of`."""
    content = b"".join(entries)
    return Section(name or f".rela{of}", SHT_RELA, flags, content, ".symtab", of, 8, 24)
