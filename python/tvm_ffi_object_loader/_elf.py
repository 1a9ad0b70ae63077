# SPDX-License-Identifier: Apache-2.0
"""ELF files as they are: sections, symbols and relocations, of any processor, class and byte order.

What loads objects reads them natively, and refuses what is not right. This reads what can be read,
to tell of it, and raises `MalformedError` where the file contradicts itself.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ._contents import Content

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
EM_CUDA = 190
SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL, SHT_DYNSYM = 2, 4, 8, 9, 11
SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY = 14, 15, 16
SHT_SYMTAB_SHNDX, SHT_CREL = 18, 0x40000014
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_TLS, SHF_COMPRESSED = 1, 2, 4, 0x400, 0x800
SHN_UNDEF, SHN_ABS, SHN_COMMON, SHN_XINDEX = 0, 0xFFF1, 0xFFF2, 0xFFFF
STB_LOCAL = 0
# The most that a compressed section may hold, in bytes: what claims more is not read.
_MOST_DECOMPRESSED = 64 << 20


class MalformedError(Exception):
    """The file contradicts itself; the message says how."""


class Section(NamedTuple):
    """A section header, with the section's name."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int


class ElfSymbol(NamedTuple):
    """An entry of a symbol table."""

    name: str
    value: int
    size: int
    type: int
    binding: int
    visibility: int
    section: int


class ElfFile:
    """An ELF file. `start` is where its content begins with the ELF header."""

    def __init__(self, content: Content) -> None:
        head = content.read(0, min(64, content.size))
        if len(head) < 52 or head[:4] != b"\x7fELF":
            raise MalformedError("is truncated: shorter than an ELF header")
        self.content = content
        self.is_64 = head[4] == 2
        self.is_little = head[5] != 2
        self.abi_version = head[8]
        self._order = "<" if self.is_little else ">"
        if self.is_64 and len(head) < 64:
            raise MalformedError("is truncated: shorter than an ELF header")
        layout = "HHIQQQIHHHHHH" if self.is_64 else "HHIIIIIHHHHHH"
        fields = struct.unpack_from(self._order + layout, head, 16)
        self.type, self.machine, self.flags = fields[0], fields[1], fields[6]
        self._table = fields[5]
        self._entry, self._count, self._names = fields[10:13]

    def _unpack_all(self, layout: str, data: bytes) -> Iterator[tuple[int, ...]]:
        size = struct.calcsize(self._order + layout)
        return struct.iter_unpack(self._order + layout, data[: len(data) // size * size])

    @functools.cached_property
    def sections(self) -> list[Section]:
        """The sections, in order."""
        if self._table == 0:
            return []
        layout = "IIQQQQIIQQ" if self.is_64 else "IIIIIIIIII"
        size = struct.calcsize(self._order + layout)
        if self._entry != size:
            raise MalformedError(f"has section headers of {self._entry} bytes, not {size}")
        first = struct.unpack(self._order + layout, self.content.read(self._table, size))
        count = self._count or first[5]
        names = first[6] if self._names == SHN_XINDEX else self._names
        headers = list(self._unpack_all(layout, self.content.read(self._table, count * size)))
        texts = b""
        if 0 < names < count:
            texts = self.content.read(headers[names][4], headers[names][5])
        # The entries' size and the alignment are left out.
        return [Section(_text(texts, header[0]), *header[1:8]) for header in headers]

    def data(self, section: Section) -> bytes:
        """Return the content of a section; none for one of zeros."""
        if section.type == SHT_NOBITS:
            return b""
        data = self.content.read(section.offset, section.size)
        if not section.flags & SHF_COMPRESSED:
            return data
        layout = self._order + ("IIQQ" if self.is_64 else "III")
        if len(data) < struct.calcsize(layout):
            raise MalformedError(f"has a compressed section {section.name} without a header")
        fields = struct.unpack_from(layout, data)
        kind, size = fields[0], fields[2 if self.is_64 else 1]
        if kind != 1 or size > _MOST_DECOMPRESSED:  # zstd, which Python's library lacks, or absurd
            return b""
        try:
            decompressor = zlib.decompressobj()
            return decompressor.decompress(data[struct.calcsize(layout) :], _MOST_DECOMPRESSED)
        except zlib.error as error:
            message = f"has a compressed section {section.name} that is damaged: {error}"
            raise MalformedError(message) from None

    @functools.cached_property
    def symbols(self) -> list[ElfSymbol]:
        """The symbol table, or that of the dynamic linker where there is no other."""
        return self._symbols_of(SHT_SYMTAB) or self.dynamic_symbols

    @functools.cached_property
    def dynamic_symbols(self) -> list[ElfSymbol]:
        """The dynamic linker's symbol table."""
        return self._symbols_of(SHT_DYNSYM)

    def _symbols_of(self, kind: int) -> list[ElfSymbol]:
        for number, section in enumerate(self.sections):
            if section.type == kind:
                return self._read_symbols(number, section)
        return []

    def _read_symbols(self, number: int, table: Section) -> list[ElfSymbol]:
        names = b""
        if table.link < len(self.sections):
            names = self.data(self.sections[table.link])
        extended: list[int] = []
        for section in self.sections:
            if section.type == SHT_SYMTAB_SHNDX and section.link == number:
                extended = [entry[0] for entry in self._unpack_all("I", self.data(section))]
        symbols = []
        entries = self._unpack_all("IBBHQQ" if self.is_64 else "IIIBBH", self.data(table))
        for index, entry in enumerate(entries):
            if self.is_64:
                name, info, other, place, value, size = entry
            else:
                name, value, size, info, other, place = entry
            if place == SHN_XINDEX and index < len(extended):
                place = extended[index]
            symbols.append(
                ElfSymbol(_text(names, name), value, size, info & 15, info >> 4, other & 3, place)
            )
        return symbols

    def relocations(self, of: int | None = None) -> Iterator[tuple[Section, int, int, int, int]]:
        """Yield table, offset, kind, symbol and addend of relocations, of all sections or one."""
        for table in self.sections:
            if table.type not in (SHT_RELA, SHT_REL) or (of is not None and table.info != of):
                continue
            number = "Q" if self.is_64 else "I"
            has_addend = table.type == SHT_RELA
            layout = number * 2 + (number.lower() if has_addend else "")
            for entry in self._unpack_all(layout, self.data(table)):
                info = entry[1]
                kind, symbol = (
                    (info & 0xFFFFFFFF, info >> 32) if self.is_64 else (info & 0xFF, info >> 8)
                )
                yield table, entry[0], kind, symbol, entry[2] if has_addend else 0


def _text(table: bytes, start: int) -> str:
    if start >= len(table):
        return ""
    end = table.find(b"\0", start)
    return table[start : end if end >= 0 else len(table)].decode("utf-8", "surrogateescape")
