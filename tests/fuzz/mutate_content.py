# SPDX-License-Identifier: Apache-2.0
"""Mutate what sections hold that only linkers read: groups, compact tables, notes, unwind records.

Each function changes one thing in an object that has something of the kind.
"""

from __future__ import annotations

import random

from elf_image import (
    SHT_CREL,
    SHT_GROUP,
    SHT_NOTE,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    SYMBOL_SIZE,
    Image,
)
from numbers_near import change_number, put_number, uleb128

_AUGMENTATIONS = (b"", b"z", b"zR", b"zPLR", b"zP", b"zL", b"zRS", b"zRB", b"zLR", b"eh", b"zX")
_ENCODINGS = (0, 1, 2, 3, 4, 9, 0xA, 0xB, 0xC, 0x1B, 0x1C, 0x30, 0x3B, 0x40, 0x50, 0x9B, 0x80, 0xFF)
_GROUP_FLAGS = (0, 1, 2, 3, 0x0FF00000, 0xF0000000, 0xFFFFFFFF)


def group(image: Image, data: bytearray, rng: random.Random) -> None:
    """Change a group's flags, its members, its signature or its extent."""
    section = rng.choice(image.of_type(SHT_GROUP))
    member = section.offset + 4 * rng.randrange(max(1, section.size // 4))
    what = rng.randrange(6)
    if what == 0:
        put_number(data, section.offset, 4, rng.choice(_GROUP_FLAGS))
    elif what == 1:
        put_number(data, member, 4, rng.randrange(len(image.sections) + 2))
    elif what == 2:
        change_number(data, member, 4, rng)
    elif what == 3:
        put_number(data, section.header + 40, 4, rng.randrange(len(image.sections) + 1))
    elif what == 4:
        symbols = image.of_type(SHT_SYMTAB)[0].size // SYMBOL_SIZE
        put_number(data, section.header + 44, 4, rng.randrange(symbols + 2))
    else:
        size = rng.choice((0, 1, 3, 4, 5, section.size - 4, section.size + 4, section.size + 64))
        put_number(data, section.header + 32, 8, size)


def extended_index(image: Image, data: bytearray, rng: random.Random) -> None:
    """Change the number of a symbol's section, where it has one of its own table."""
    table = rng.choice(image.of_type(SHT_SYMTAB_SHNDX))
    at = table.offset + 4 * rng.randrange(max(1, table.size // 4))
    if rng.randrange(2):
        put_number(data, at, 4, rng.randrange(len(image.sections) + 2))
    else:
        change_number(data, at, 4, rng)


def compact_relocations(image: Image, data: bytearray, rng: random.Random) -> None:
    """Change the count in the head of CREL relocations, their bytes, or where they end."""
    table = rng.choice(image.of_type(SHT_CREL))
    at = table.offset + rng.randrange(table.size)
    what = rng.randrange(5)
    if what == 0:
        count = rng.choice((0, 1, 2, table.size, 1 << 28, 1 << 32, 1 << 60, (1 << 61) - 1))
        head = uleb128(8 * count + rng.randrange(8))[: table.size]
        data[table.offset : table.offset + len(head)] = head
    elif what == 1:
        data[table.offset] = (data[table.offset] + rng.choice((-8, -4, 1, 2, 4, 8, 16))) % 256
    elif what == 2:
        data[at] ^= 0x80
    elif what == 3:
        data[at] = rng.randrange(256)
    else:
        put_number(data, table.header + 32, 8, table.size + rng.choice((-1, -2, 1, 2, 8)))


def note(image: Image, data: bytearray, rng: random.Random) -> None:
    """Change the sizes and the type that a note begins with, or a property in it."""
    note = rng.choice(image.of_type(SHT_NOTE))
    change_number(data, note.offset + 4 * rng.randrange(max(1, note.size // 4)), 4, rng)


def frame(image: Image, data: bytearray, rng: random.Random) -> None:
    """Change a record of an unwind table: its length, its CIE, or what comes first in it."""
    record = rng.choice(image.records)
    at, size = record.offset, record.size
    other = rng.choice(image.records)
    what = rng.randrange(8)
    if what == 0:
        reach = other.offset + other.size - at - 4
        near = (size - 4) + rng.choice((-8, -4, -1, 1, 4, 8))
        put_number(data, at, 4, rng.choice((reach, near, 0, 1, 3, 4, 0xFFFFFFFE, 0xFFFFFFFF)))
    elif what == 1 and size >= 12:  # a length of 64 bits
        put_number(data, at, 4, 0xFFFFFFFF)
        put_number(data, at + 4, 8, rng.choice((size - 12, size, 0, len(data), 1 << 63, -8)))
    elif what == 2:
        distance = at + 4 - other.offset
        put_number(data, at + 4, 4, rng.choice((distance, distance, 0, 4, -4, 1, 1 << 31)))
    elif what == 3 and record.is_cie and size > 16:
        text = rng.choice(_AUGMENTATIONS) + b"\0"
        data[at + 9 : at + 9 + len(text)] = text
    elif what == 4 and record.is_cie:
        data[at + 8] = rng.choice((0, 1, 2, 3, 4, 5, 255))
    elif what == 5 and record.is_cie:  # the encodings are among its last bytes
        data[at + 9 + rng.randrange(max(1, size - 9))] = rng.choice(_ENCODINGS)
    elif what == 6:
        change_number(data, at + 4 * rng.randrange(min(size, 32) // 4), 4, rng)
    else:
        data[at + rng.randrange(min(size, 40))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
