# SPDX-License-Identifier: Apache-2.0
"""Mutate objects and archives where it hurts a linker: headers, tables, relocations, records."""

from __future__ import annotations

import random
import re
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


_ARCHIVE = b"!<arch>\n"
_MEMBER_NAMES = ("/", "//", "/SYM64/", "/0", "/9", "/-1", "#1/8", "#1/99999", "__.SYMDEF", "")


def _mutate_object(original: bytes, rng: random.Random) -> bytes:
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
            data[offset : offset + size] = (original[other[2] : other[2] + size]).ljust(size, b"\0")
    return bytes(data)


def _archive_headers(data: bytes) -> list[tuple[int, bytes, int]]:
    """Give (offset of the header, name, size of the content) of each member."""
    headers = []
    at = len(_ARCHIVE)
    while at < len(data):
        size = int(data[at + 48 : at + 58])
        headers.append((at, data[at : at + 16].rstrip(), size))
        at += 60 + size + size % 2
    return headers


def _mutate_archive(original: bytes, rng: random.Random) -> bytes:
    headers = _archive_headers(original)
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, _, size = rng.choice(headers)
        kind = rng.randrange(6)
        if kind == 0:
            data[at + rng.randrange(60)] = rng.randrange(256)
        elif kind == 1:
            near = size + rng.choice((-61, -60, -2, -1, 1, 2, 60, len(data)))
            new = str(rng.choice((near, near, 0, 9999999999, "", "x")))
            data[at + 48 : at + 58] = new.encode().ljust(10)[:10]
        elif kind == 2:
            data[at : at + 16] = rng.choice(_MEMBER_NAMES).encode().ljust(16)
        elif kind == 3:
            at, _, size = rng.choice([header for header in headers if header[1].startswith(b"/")])
            _change_number(data, at + 60 + rng.randrange(size), 1, rng)
        elif kind == 4 and rng.randrange(4) == 0:
            del data[rng.randrange(len(data)) :]
            break
        elif kind == 5:
            content = original[at + 60 : at + 60 + size]
            if content.startswith(b"\x7fELF"):
                mutant = _mutate_object(content, rng)
                data[at + 60 : at + 60 + size] = mutant.ljust(size, b"\0")
    return bytes(data)


def mutants(seeds: list[bytes], seed: int) -> Iterator[bytes]:
    """Yield mutants of objects and archives for ever, the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        original = rng.choice(seeds)
        mutate = _mutate_archive if original.startswith(_ARCHIVE) else _mutate_object
        yield mutate(original, rng)


def has_resolvers(data: bytes) -> bool:
    """Whether an object has functions that run when it is loaded (STT_GNU_IFUNC).

    For an archive: whether a member has.
    """
    return any(_has_resolvers(data[found.start() :]) for found in re.finditer(b"\x7fELF", data))


def _has_resolvers(data: bytes) -> bool:
    try:
        tables = [section for section in _sections(data) if section[1] == _SHT_SYMTAB]
    except (struct.error, OverflowError):
        return False
    infos = (data[offset + 4 : offset + size : 24] for _, _, offset, size in tables)
    return any(info & 0xF == 10 for table in infos for info in table)
