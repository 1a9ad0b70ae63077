# SPDX-License-Identifier: Apache-2.0
"""Mutate objects where it hurts a linker: headers, tables, relocations, groups, unwind records.

Every mutant has a number, from which alone it is made, so that any of them can be made again.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable, Sequence

from elf_image import (
    HEADER_SIZE,
    RELOCATION_SIZE,
    SECTION_HEADER_SIZE,
    SHT_CREL,
    SHT_GROUP,
    SHT_NOTE,
    SHT_RELA,
    SHT_STRTAB,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    SYMBOL_SIZE,
    Image,
)
from mutate_archive import is_archive, mutate_archive
from mutate_content import compact_relocations, extended_index, frame, group, note
from numbers_near import change_number, put_number

_HEADER = ((16, 2), (18, 2), (20, 4), (32, 8), (40, 8), (48, 4), (52, 2), (58, 2), (60, 2), (62, 2))
_SECTION = ((0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8))
_SYMBOL = ((0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8))
_RELOCATION = ((0, 8), (8, 4), (12, 4), (16, 8))

# Known to linkers, but for what runs code: SHT_*, SHF_*, STT_* and so on.
_SECTION_TYPES = (
    *range(12),
    *(SHT_GROUP, SHT_SYMTAB_SHNDX, 19, SHT_CREL),
    *(0x6FFF4C00, 0x6FFF4C03, 0x6FFFFFF5, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF, 0x70000001),
)
_SHF_ALLOC = 2
_SECTION_FLAGS = (
    *(1, _SHF_ALLOC, 4, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800),
    *(0x200000, 0x10000000, 0x80000000),
)
_SYMBOL_TYPES = (0, 1, 2, 3, 4, 5, 6)
_BINDINGS = (0, 1, 2, 10)
_RESERVED_INDICES = (0, 0xFF00, 0xFF02, 0xFFF1, 0xFFF2, 0xFFFF)
_RELOCATION_TYPES = 52
_VERSIONS = (b"@", b"@@", b"@@@", b"@V", b"@@V", b"@GLIBC_2.2.5", b"@@GLIBC_2.2.5")


Mutation = Callable[[Image, bytearray, random.Random], None]


def _entry(image: Image, kind: int, size: int, rng: random.Random) -> int:
    """Choose an entry of a table of this type; relocations of unwind records are chosen often."""
    tables = image.of_type(kind)
    of_records = [table for table in tables if table.name == b".rela.eh_frame"]
    table = rng.choice(of_records if of_records and rng.randrange(3) == 0 else tables)
    return table.offset + size * rng.randrange(max(1, table.size // size))


def _change_field(
    data: bytearray, at: int, fields: Sequence[tuple[int, int]], rng: random.Random
) -> None:
    offset, width = rng.choice(fields)
    change_number(data, at + offset, width, rng)


def _any_byte(image: Image, data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _header_field(image: Image, data: bytearray, rng: random.Random) -> None:
    _change_field(data, 0, _HEADER, rng)


def _section_field(image: Image, data: bytearray, rng: random.Random) -> None:
    _change_field(data, rng.choice(image.sections).header, _SECTION, rng)


def _section_header(image: Image, data: bytearray, rng: random.Random) -> None:
    """A section is there twice, or two change places."""
    a, b = (rng.choice(image.sections).header for _ in range(2))
    first, second = (bytes(data[at : at + SECTION_HEADER_SIZE]) for at in (a, b))
    data[a : a + SECTION_HEADER_SIZE] = second
    if rng.randrange(2):
        data[b : b + SECTION_HEADER_SIZE] = first


def _section_place(image: Image, data: bytearray, rng: random.Random) -> None:
    """A section, or the table of sections, comes to lie over something else."""
    section, part = rng.choice(image.sections), rng.choice(image.parts)
    within = rng.choice(
        (0, 0, 0, -1, 1, 8, part.size // 2, part.size - 1, part.size - section.size)
    )
    offset = part.offset + within
    if rng.randrange(8) == 0:
        put_number(data, 40, 8, offset)
        return
    put_number(data, section.header + 24, 8, offset)
    sizes = (section.size, section.size, part.size, len(data) - offset, 1, 8)
    put_number(data, section.header + 32, 8, rng.choice(sizes))


def _section_size(image: Image, data: bytearray, rng: random.Random) -> None:
    """A section ends in, or just before, something else."""
    section, part = rng.choice(image.sections), rng.choice(image.parts)
    end = rng.choice((part.offset, part.offset + part.size, len(data)))
    size = end - section.offset + rng.choice((-1, 0, 0, 1, 8))
    put_number(data, section.header + 32, 8, rng.choice((size, size, part.size, 0)))


def _section_flags(image: Image, data: bytearray, rng: random.Random) -> None:
    section = rng.choice(image.sections)
    (flags,) = struct.unpack_from("<Q", data, section.header + 8)
    for _ in range(rng.choice((1, 1, 2))):
        flags ^= rng.choice((_SHF_ALLOC, rng.choice(_SECTION_FLAGS)))
    put_number(data, section.header + 8, 8, flags)


def _section_type(image: Image, data: bytearray, rng: random.Random) -> None:
    put_number(data, rng.choice(image.sections).header + 4, 4, rng.choice(_SECTION_TYPES))


def _section_reference(image: Image, data: bytearray, rng: random.Random) -> None:
    """Change a section's name, what it is linked to, or how large it says its entries are."""
    header = rng.choice(image.sections).header
    field = rng.randrange(4)
    if field == 3:
        other = rng.choice(image.sections).header
        data[header : header + 4] = data[other : other + 4]
    elif field == 2:
        put_number(data, header + 56, 8, rng.choice((0, 1, 2, 4, 8, 16, 24, 32, len(data))))
    else:
        number = rng.randrange(len(image.sections) + 1)
        put_number(data, header + 40 + 4 * field, 4, number)


def _section_alignment(image: Image, data: bytearray, rng: random.Random) -> None:
    alignment = rng.choice((0, 3, 1 << rng.randrange(64), (1 << rng.randrange(64)) - 1))
    put_number(data, rng.choice(image.sections).header + 48, 8, alignment)


def _symbol_field(image: Image, data: bytearray, rng: random.Random) -> None:
    _change_field(data, _entry(image, SHT_SYMTAB, SYMBOL_SIZE, rng), _SYMBOL, rng)


def _symbol_known(image: Image, data: bytearray, rng: random.Random) -> None:
    """Make a symbol of another kind, in another section, or with the name of another symbol."""
    at = _entry(image, SHT_SYMTAB, SYMBOL_SIZE, rng)
    what = rng.randrange(5)
    if what == 0:
        data[at + 4] = rng.choice(_BINDINGS) << 4 | rng.choice(_SYMBOL_TYPES)
    elif what == 1:
        data[at + 5] = rng.choice((0, 1, 2, 3, rng.randrange(256)))
    elif what == 2:
        index = rng.choice((rng.choice(_RESERVED_INDICES), rng.randrange(len(image.sections))))
        put_number(data, at + 6, 2, index)
    elif what == 3:
        size = rng.choice(image.sections).size
        put_number(data, at + rng.choice((8, 16)), 8, size + rng.choice((-8, -1, 0, 1)))
    else:
        other = _entry(image, SHT_SYMTAB, SYMBOL_SIZE, rng)
        data[at : at + 4] = data[other : other + 4]


def _relocation_field(image: Image, data: bytearray, rng: random.Random) -> None:
    _change_field(data, _entry(image, SHT_RELA, RELOCATION_SIZE, rng), _RELOCATION, rng)


def _relocation_known(image: Image, data: bytearray, rng: random.Random) -> None:
    """Give a relocation another type or symbol, or a place at the edge of a section."""
    at = _entry(image, SHT_RELA, RELOCATION_SIZE, rng)
    what = rng.randrange(4)
    if what == 0:
        put_number(data, at + 8, 4, rng.randrange(_RELOCATION_TYPES))
    elif what == 1:
        symbols = image.of_type(SHT_SYMTAB)[0].size // SYMBOL_SIZE
        put_number(data, at + 12, 4, rng.randrange(symbols + 1))
    elif what == 2:
        size = rng.choice(image.sections).size
        put_number(data, at, 8, size - rng.choice((0, 1, 2, 3, 4, 7, 8)))
    else:
        other = _entry(image, SHT_RELA, RELOCATION_SIZE, rng)
        data[at : at + RELOCATION_SIZE] = image.data[other : other + RELOCATION_SIZE]


def _name(image: Image, data: bytearray, rng: random.Random) -> None:
    """Change a byte of a name, give the name a version, or let it end nowhere."""
    table = rng.choice(image.of_type(SHT_STRTAB))
    at = table.offset + rng.randrange(table.size)
    what = rng.randrange(4)
    if what == 0:
        change_number(data, at, 1, rng)
    elif what == 1:
        data[table.offset + table.size - 1] = ord("x")
    else:
        end = data.find(b"\0", at, table.offset + table.size)
        version = rng.choice(_VERSIONS)
        if end - len(version) >= table.offset:
            data[end - len(version) : end] = version


def _content(image: Image, data: bytearray, rng: random.Random) -> None:
    """Let the content of a part be another's."""
    part, other = rng.choice(image.parts), rng.choice(image.parts)
    content = image.data[other.offset : other.offset + part.size]
    data[part.offset : part.offset + part.size] = content.ljust(part.size, b"\0")


def _truncation(image: Image, data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(HEADER_SIZE, len(data)) :]
    data += bytes(rng.choice((0, len(image.data) - len(data))))


_MUTATIONS: tuple[Mutation, ...] = (
    *(_any_byte, _header_field, _section_field, _section_header, _section_place, _section_size),
    *(_section_flags, _section_type, _section_reference, _section_alignment),
    *(_symbol_field, _symbol_field, _symbol_known, _symbol_known, _name, _name),
    *(_relocation_field, _relocation_field, _relocation_known, _relocation_known),
    *(group, group, extended_index, compact_relocations, compact_relocations, note),
    *(frame, frame, frame, _content, _truncation),
)
_NEEDS: dict[Mutation, int] = {
    _symbol_field: SHT_SYMTAB,
    _symbol_known: SHT_SYMTAB,
    _relocation_field: SHT_RELA,
    _relocation_known: SHT_RELA,
    _name: SHT_STRTAB,
    group: SHT_GROUP,
    extended_index: SHT_SYMTAB_SHNDX,
    compact_relocations: SHT_CREL,
    note: SHT_NOTE,
}


def _suits(mutation: Mutation, image: Image) -> bool:
    if mutation is frame:
        return bool(image.records)
    return mutation not in _NEEDS or bool(image.of_type(_NEEDS[mutation]))


@functools.lru_cache(maxsize=256)
def _image(data: bytes) -> tuple[Image, list[Mutation]]:
    """Return the object, and what can be done to it."""
    image = Image(data)
    return image, [mutation for mutation in _MUTATIONS if _suits(mutation, image)]


def mutate_object(original: bytes, rng: random.Random) -> bytes:
    """Return a mutant of an object."""
    image, mutations = _image(original)
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 4, 16))):
        rng.choice(mutations)(image, data, rng)
        # What is changed next may lie after the end of a file that was truncated.
        if len(data) != len(original):
            break
    return bytes(data)


def mutant(seeds: Sequence[bytes], seed: int, number: int) -> tuple[int, bytes]:
    """Return a mutant of one of the objects and archives, and the index of that one.

    It depends on the arguments alone.
    """
    rng = random.Random(f"{seed}/{number}")
    index = rng.randrange(len(seeds))
    original = seeds[index]
    if is_archive(original):
        return index, mutate_archive(original, mutate_object, rng)
    return index, mutate_object(original, rng)
