# SPDX-License-Identifier: Apache-2.0
"""Mutate archives: their headers, tables and names, which members they have, and the members."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from numbers_near import change_number

ARCHIVE, THIN = b"!<arch>\n", b"!<thin>\n"
_HEADER_SIZE = 60
_TABLES = (b"/", b"//", b"/SYM64/", b"__.SYMDEF")
_NAMES = (
    *("/", "//", "/SYM64/", "/0", "/1", "/9", "/-1", "/0:60", "/0:-1", "/18446744073709551615"),
    *("#1/0", "#1/8", "#1/99999", "#1/-1", "__.SYMDEF", "", "a/", "./", "../", "/dev/null", " "),
)
_NAME_BYTES = b"/\n\0:.` "


class _Member(NamedTuple):
    header: int
    name: bytes
    size: int  # of its content
    end: int  # with what pads it; in a thin archive, of the header alone

    @property
    def content(self) -> int:
        return self.header + _HEADER_SIZE


def is_archive(data: bytes) -> bool:
    """Whether the data begins as an archive, thin ones included."""
    return data.startswith((ARCHIVE, THIN))


def is_thin(data: bytes) -> bool:
    """Whether the data begins as an archive whose members are files beside it."""
    return data.startswith(THIN)


def _members(data: bytes) -> list[_Member]:
    members = []
    at = len(ARCHIVE)
    while at < len(data):
        size = int(data[at + 48 : at + 58])
        name = data[at : at + 16].rstrip()
        if name.startswith(b"#1/"):
            name = data[at + _HEADER_SIZE :][: int(name[3:])].rstrip(b"\0")
        is_elsewhere = is_thin(data) and not name.startswith(_TABLES[1:]) and name != b"/"
        end = at + _HEADER_SIZE + (0 if is_elsewhere else size)
        end += end % 2
        members.append(_Member(at, name, 0 if is_elsewhere else size, min(end, len(data))))
        at = end
    return members


def header(name: str, size: int) -> bytes:
    """Return the header of a member."""
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{size:<10}`\n".encode()


def member(name: str, content: bytes) -> bytes:
    """Return a member with its header, and what pads it."""
    return header(name, len(content)) + content + b"\n" * (len(content) % 2)


def _rearranged(original: bytes, rng: random.Random) -> bytes:
    """Drop a member, repeat it, move it, or put the whole archive in its place (if not thin)."""
    members = [original[member.header : member.end] for member in _members(original)]
    at = rng.randrange(len(members))
    what = rng.randrange(3 if is_thin(original) else 4)
    if what == 0:
        del members[at]
    elif what == 1:
        members.insert(rng.randrange(len(members) + 1), members[at])
    elif what == 2:
        members.insert(rng.randrange(len(members)), members.pop(at))
    else:
        members[at] = member("nested.a/", original)
    return original[: len(ARCHIVE)] + b"".join(each + b"\n" * (len(each) % 2) for each in members)


def _change_size(data: bytearray, at: _Member, members: list[_Member], rng: random.Random) -> None:
    to_others = [other.header - at.content for other in members] + [len(data) - at.content]
    near = at.size + rng.choice((-61, -60, -2, -1, 1, 2, 60, len(data)))
    reach = rng.choice(to_others) + rng.choice((-1, 0, 0, 1))
    text = rng.choice((near, reach, reach, 0, 9999999999, "", "x", "-1", "+1", "0x10", "1 0"))
    data[at.header + 48 : at.header + 58] = str(text).encode().ljust(10)[:10]


def _change_table(data: bytearray, members: list[_Member], rng: random.Random) -> None:
    """Change a number of a table of symbols, or a byte of the table of names."""
    tables = [m for m in members if m.size and (m.name in _TABLES or m.name.startswith(b"__."))]
    if not tables:
        return
    table = rng.choice(tables)
    place = table.content + rng.randrange(table.size)
    if table.name == b"//":
        data[place] = rng.choice(_NAME_BYTES)
    elif rng.randrange(3) == 0:
        change_number(data, place, 1, rng)
    else:
        word = table.content + 4 * rng.randrange(min(max(1, table.size // 4), 16))
        offset = rng.choice((rng.choice(members).header, place, 0, len(data), 0xFFFFFFFF))
        count = rng.choice((1, 2, 0x40000000, 0x20000000, table.size // 4))
        number = rng.choice((offset, count)) % (1 << 32)
        if word + 4 <= len(data):
            data[word : word + 4] = number.to_bytes(4, rng.choice(("big", "big", "little")))


def mutate_archive(
    original: bytes, mutate_object: Callable[[bytes, random.Random], bytes], rng: random.Random
) -> bytes:
    """Return a mutant of an archive."""
    if rng.randrange(4) == 0:
        original = _rearranged(original, rng)
    members = _members(original)
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 4)) if members else 0):
        at = rng.choice(members)
        what = rng.randrange(10)
        if what == 0:
            data[at.header + rng.randrange(_HEADER_SIZE)] = rng.randrange(256)
        elif what == 1:
            _change_size(data, at, members, rng)
        elif what == 2:
            data[at.header : at.header + 16] = rng.choice(_NAMES).encode().ljust(16)[:16]
        elif what in (3, 4, 5):
            _change_table(data, members, rng)
        elif what == 6 and rng.randrange(4) == 0:
            del data[rng.randrange(len(data)) :]
            break
        elif what == 7 and rng.randrange(8) == 0:
            data[: len(THIN)] = ARCHIVE if is_thin(original) else THIN
        else:
            objects = [m for m in members if original.startswith(b"\x7fELF", m.content)]
            if objects:
                at = rng.choice(objects)
                content = original[at.content : at.content + at.size]
                data[at.content : at.content + at.size] = mutate_object(content, rng).ljust(
                    at.size, b"\0"
                )
    return bytes(data)
