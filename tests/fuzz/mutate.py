# SPDX-License-Identifier: Apache-2.0
"""Mutate object files where it hurts a linker: headers, tables, relocations, unwind records."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

_SHT_SYMTAB, _SHT_STRTAB, _SHT_RELA = 2, 3, 4
_INTERESTING = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0xFFF0, 0xFFF1, 0xFFF2, 0xFFFF)
_WIDE = (
    0,
    1,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0x7FFFFFFFFFFFFFFF,
    0x8000000000000000,
    0xFFFFFFFFFFFFFFFF,
)


def _sections(data: bytes) -> list[tuple[int, int, int, int]]:
    """Give (offset of the header, type, offset, size) of each section."""
    (table,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    sections = []
    for i in range(count):
        at = table + 64 * i
        (kind,) = struct.unpack_from("<I", data, at + 4)
        offset, size = struct.unpack_from("<QQ", data, at + 24)
        sections.append((at, kind, offset, size))
    return sections


def _change_number(data: bytearray, at: int, size: int, rng: random.Random) -> None:
    """Replace a little-endian number by one near it, or by one that is likely to hurt."""
    old = int.from_bytes(data[at : at + size], "little")
    choice = rng.randrange(4)
    if choice == 0:
        new = old + rng.choice((-8, -4, -1, 1, 4, 8, len(data)))
    elif choice == 1:
        new = rng.choice(_INTERESTING)
    elif choice == 2:
        new = rng.choice(_WIDE) + rng.choice((-8, -1, 0, 0, 1))
    else:
        new = old ^ (1 << rng.randrange(8 * size))
    data[at : at + size] = (new % (1 << 8 * size)).to_bytes(size, "little")


def _mutate_record(
    data: bytearray, start: int, size: int, fields: tuple[tuple[int, int], ...], rng: random.Random
) -> None:
    length = max(offset + width for offset, width in fields)
    if size < length:
        return
    at = start + length * rng.randrange(size // length)
    offset, width = rng.choice(fields)
    _change_number(data, at + offset, width, rng)


_HEADER = ((16, 2), (18, 2), (20, 4), (32, 8), (40, 8), (48, 4), (52, 2), (58, 2), (60, 2), (62, 2))
_SECTION = ((0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8))
_SYMBOL = ((0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8))
_RELOCATION = ((0, 8), (8, 4), (12, 4), (16, 8))


def mutants(seed_objects: list[bytes], seed: int) -> Iterator[bytes]:
    """Yield mutants for ever, the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        original = rng.choice(seed_objects)
        sections = _sections(original)
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            kind = rng.randrange(9)
            _, section_type, offset, size = section = rng.choice(sections)
            if kind == 0:
                data[rng.randrange(len(data))] = rng.randrange(256)
            elif kind == 1:
                _mutate_record(data, 0, 64, _HEADER, rng)
            elif kind == 2:
                _mutate_record(data, section[0], 64, _SECTION, rng)
            elif kind in (3, 4, 5, 6):
                wanted = (_SHT_SYMTAB, _SHT_RELA, _SHT_STRTAB, None)[kind - 3]
                fitting = [s for s in sections if (s[1] == wanted if wanted else s[3])]
                _, section_type, offset, size = rng.choice(fitting)
                if section_type == _SHT_SYMTAB:
                    _mutate_record(data, offset, size, _SYMBOL, rng)
                elif section_type == _SHT_RELA:
                    _mutate_record(data, offset, size, _RELOCATION, rng)
                elif size and offset + size <= len(data):
                    _change_number(data, offset + rng.randrange(size), 1, rng)
            elif kind == 7 and len(data) > 64:
                del data[rng.randrange(64, len(data)) :]
                break
            elif kind == 8 and size and offset + size <= len(data):
                other = rng.choice(sections)
                data[offset : offset + size] = (original[other[2] : other[2] + size]).ljust(
                    size, b"\0"
                )
        yield bytes(data)


def has_resolvers(data: bytes) -> bool:
    """Whether a symbol table holds functions that run when the object is loaded (STT_GNU_IFUNC)."""
    try:
        tables = [section for section in _sections(data) if section[1] == _SHT_SYMTAB]
    except (struct.error, OverflowError):
        return False
    infos = (data[offset + 4 : offset + size : 24] for _, _, offset, size in tables)
    return any(info & 0xF == 10 for table in infos for info in table)
