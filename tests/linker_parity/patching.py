# SPDX-License-Identifier: Apache-2.0
"""Objects with relocations of types that assemblers here do not emit."""

from __future__ import annotations

import struct

_SHT_RELA = 4


def with_relocation_type(content: bytes, old: int, new: int) -> bytes:
    """Change the type of the object's relocations from `old` to `new`."""
    patched = bytearray(content)
    (table,) = struct.unpack_from("<Q", content, 40)
    (count,) = struct.unpack_from("<H", content, 60)
    changed = 0
    for section in range(count):
        kind, _, _, offset, size = struct.unpack_from("<IQQQQ", content, table + 64 * section + 4)
        if kind != _SHT_RELA:
            continue
        for at in range(offset + 8, offset + size, 24):
            if struct.unpack_from("<I", content, at)[0] == old:
                struct.pack_into("<I", patched, at, new)
                changed += 1
    assert changed
    return bytes(patched)
