# SPDX-License-Identifier: Apache-2.0
"""Numbers in files: written, encoded, and replaced by others that are likely to hurt."""

from __future__ import annotations

import random

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


def put_number(data: bytearray, at: int, width: int, number: int) -> None:
    """Write a little-endian number, or its lowest bytes, unless the data ends before."""
    if 0 <= at <= len(data) - width:
        data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")


def change_number(data: bytearray, at: int, width: int, rng: random.Random) -> None:
    """Replace a little-endian number by one near it, or by one that is likely to hurt."""
    old = int.from_bytes(data[at : at + width], "little")
    choice = rng.randrange(4)
    if choice == 0:
        new = old + rng.choice((-8, -4, -1, 1, 4, 8, len(data)))
    elif choice == 1:
        new = rng.choice(_INTERESTING)
    elif choice == 2:
        new = rng.choice(_WIDE) + rng.choice((-8, -1, 0, 0, 1))
    else:
        new = old ^ (1 << rng.randrange(8 * width))
    put_number(data, at, width, new)


def uleb128(number: int) -> bytes:
    """Encode an unsigned number as LEB128."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
