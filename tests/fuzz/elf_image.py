# SPDX-License-Identifier: Apache-2.0
"""Read objects as far as mutating them takes, and tell which of them run code when loaded."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 2, 3, 4, 7, 8, 11
SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY = 14, 15, 16
SHT_GROUP, SHT_SYMTAB_SHNDX, SHT_CREL = 17, 18, 0x40000014
SHN_XINDEX = 0xFFFF
STB_GLOBAL, STB_WEAK = 1, 2
STT_GNU_IFUNC = 10
HEADER_SIZE = SECTION_HEADER_SIZE = 64
SYMBOL_SIZE = RELOCATION_SIZE = 24

_INITIALIZERS = (b".init", b".fini", b".preinit_array", b".ctors", b".dtors")


class Section(NamedTuple):
    """What the header of a section says, and where the header is."""

    header: int
    name: bytes
    type: int
    offset: int
    size: int


class Record(NamedTuple):
    """A CIE or an FDE: where its length is, and how many bytes it has with that."""

    offset: int
    size: int
    is_cie: bool


def _fields(data: bytes, at: int) -> tuple[int, ...]:
    return struct.unpack_from("<IIQQQQII", data, at)


def read_sections(data: bytes) -> list[Section]:
    """Give the sections whose headers lie in the file, of any file that starts as an object."""
    if len(data) < HEADER_SIZE:
        return []
    (table,) = struct.unpack_from("<Q", data, 40)
    fitting = max(0, len(data) - table) // SECTION_HEADER_SIZE
    count, names = struct.unpack_from("<HH", data, 60)
    if fitting and count == 0:
        count = _fields(data, table)[5]
    if fitting and names == SHN_XINDEX:
        names = _fields(data, table)[6]
    count = min(count, fitting)
    start = end = 0
    if names < fitting:
        *_, start, size, _, _ = _fields(data, table + SECTION_HEADER_SIZE * names)
        end = start + size
    sections = []
    for at in range(table, table + SECTION_HEADER_SIZE * count, SECTION_HEADER_SIZE):
        name, kind, _, _, offset, size, _, _ = _fields(data, at)
        text = data[start + name : end].split(b"\0", 1)[0]
        sections.append(Section(at, text, kind, offset, size))
    return sections


def read_records(data: bytes, section: Section) -> list[Record]:
    """Give the records of a section .eh_frame that is well formed."""
    records = []
    at, end = section.offset, section.offset + section.size
    while at + 8 <= end:
        length, identifier = struct.unpack_from("<II", data, at)
        if length == 0:
            break
        records.append(Record(at, 4 + length, identifier == 0))
        at += 4 + length
    return records


def _is_stored(section: Section) -> bool:
    return section.type not in (0, SHT_NOBITS)


class Part(NamedTuple):
    """A part of the file: content of a section, or a header."""

    offset: int
    size: int


class Image:
    """A well-formed object."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sections = read_sections(data)
        self.parts = [Part(0, HEADER_SIZE)]
        if self.sections:
            size = SECTION_HEADER_SIZE * len(self.sections)
            self.parts.append(Part(self.sections[0].header, size))
        self.parts += [Part(s.offset, s.size) for s in self.sections if s.size and _is_stored(s)]
        frames = [section for section in self.sections if section.name == b".eh_frame"]
        self.records = [record for frame in frames for record in read_records(data, frame)]

    def of_type(self, kind: int) -> list[Section]:
        """Return the sections of a type that have content."""
        return [section for section in self.sections if section.type == kind and section.size]


def _object_runs_code(data: bytes) -> bool:
    for section in read_sections(data):
        if section.type in (SHT_INIT_ARRAY, SHT_FINI_ARRAY, SHT_PREINIT_ARRAY):
            return True
        if section.name.startswith(_INITIALIZERS):
            return True
        if section.type in (SHT_SYMTAB, SHT_DYNSYM):
            infos = data[section.offset + 4 : section.offset + section.size : SYMBOL_SIZE]
            if any(info & 0xF == STT_GNU_IFUNC for info in infos):
                return True
    return False


def runs_code(data: bytes) -> bool:
    """Whether code may run when the object is loaded or unloaded.

    That is so where it has functions that choose their implementation, or a section for what runs
    at the start or the end, by its type or its name. For an archive: whether a member has one.
    """
    return any(_object_runs_code(data[found.start() :]) for found in re.finditer(b"\x7fELF", data))


def weakened(data: bytes) -> bytes:
    """Return an object with all global symbols weak, so that it can be linked with its like."""
    out = bytearray(data)
    for section in read_sections(data):
        if section.type == SHT_SYMTAB:
            for at in range(section.offset, section.offset + section.size, SYMBOL_SIZE):
                _, info, _, index = struct.unpack_from("<IBBH", data, at)
                if info >> 4 == STB_GLOBAL and index != 0:
                    out[at + 4] = STB_WEAK << 4 | info & 0xF
    return bytes(out)
