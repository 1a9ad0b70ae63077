# SPDX-License-Identifier: Apache-2.0
"""What compiled an object, as its debug information says: DW_AT_producer of the first unit."""

from __future__ import annotations

import struct

from ._elf import ElfFile

_PRODUCER = 0x25
_STRING, _STRP, _LINE_STRP = 0x08, 0x0E, 0x1F
_STRX1 = 0x25
# Bytes of the forms of attributes that may come before it.
_FIXED = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x19: 0}
_MOST_BYTES = 4096


def _leb(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            break
    return value, position


def _relocated(elf: ElfFile, section: str, offset: int, stored: int) -> int:
    """Return a field as it is in a linked file: an offset into a section of texts."""
    numbers = {entry.name: number for number, entry in enumerate(elf.sections)}
    for _, place, _, symbol, addend in elf.relocations(numbers.get(section, -1)):
        if place == offset:
            base = elf.symbols[symbol].value if symbol < len(elf.symbols) else 0
            return base + addend
    return stored


def _text(data: bytes, start: int) -> str | None:
    if not 0 <= start < len(data):
        return None
    end = data.find(b"\0", start, start + _MOST_BYTES)
    return data[start:end].decode("utf-8", "replace") if end > start else None


def producer(elf: ElfFile) -> str | None:
    """Return the producer of the first unit, or `None` where there is none, or it is not found.

    Raises
    ------
    MalformedError
        If a section is damaged.
    """
    sections = {section.name: section for section in elf.sections}
    if ".debug_info" not in sections or ".debug_abbrev" not in sections:
        return None
    info = elf.data(sections[".debug_info"])
    order = "<" if elf.is_little else ">"
    if len(info) < 16 or info[:4] == b"\xff\xff\xff\xff":  # the 64-bit format: nobody writes it
        return None
    (version,) = struct.unpack_from(order + "H", info, 4)
    position = 11
    if version >= 5:
        position = 12 + (8 if info[6] in (4, 5) else 0)  # a skeleton or split unit has an id
    abbreviations = elf.data(sections[".debug_abbrev"])
    code, position = _leb(info, position)
    number, at = _leb(abbreviations, 0)
    if number != code:
        return None
    _, at = _leb(abbreviations, at)
    at += 1
    while at < len(abbreviations):
        attribute, at = _leb(abbreviations, at)
        form, at = _leb(abbreviations, at)
        if attribute == 0:
            return None
        if attribute != _PRODUCER:
            if form not in _FIXED:
                return None
            position += _FIXED[form]
            continue
        if form == _STRING:
            return _text(info, position)
        if form in (_STRP, _LINE_STRP):
            table = ".debug_str" if form == _STRP else ".debug_line_str"
            (stored,) = struct.unpack_from(order + "I", info.ljust(position + 4, b"\0"), position)
            start = _relocated(elf, ".debug_info", position, stored)
        elif form == _STRX1 and ".debug_str_offsets" in sections and position < len(info):
            table = ".debug_str"
            offsets = elf.data(sections[".debug_str_offsets"])
            place = 8 + 4 * info[position]
            (stored,) = struct.unpack_from(order + "I", offsets.ljust(place + 4, b"\0"), place)
            start = _relocated(elf, ".debug_str_offsets", place, stored)
        else:
            return None
        return _text(elf.data(sections[table]), start) if table in sections else None
    return None
