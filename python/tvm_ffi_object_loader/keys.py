# SPDX-License-Identifier: Apache-2.0
"""Keys for `ObjectCache`: a digest of everything that an object was made from.

Each part is encoded with its type and its length, so that different parts never give one encoding:
``("ab", "c")`` and ``("a", "bc")`` differ, as do ``1``, ``True`` and ``"1"``.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections.abc import Iterable, Mapping, Set
from typing import Any

import tvm_ffi

from . import __version__

# To be changed with the encoding.
_SCHEME = 1


def _tagged(tag: bytes, content: bytes) -> bytes:
    return b"%s%d:%s" % (tag, len(content), content)


def _joined(tag: bytes, encoded: Iterable[bytes]) -> bytes:
    return _tagged(tag, b"".join(encoded))


def encode(part: object) -> bytes:
    """Return the encoding of a part.

    Raises
    ------
    OSError
        If a file cannot be read.
    TypeError
        If it is of a type that no key is made of.
    """
    if part is None:
        return _tagged(b"n", b"")
    if isinstance(part, bool):
        return _tagged(b"t" if part else b"f", b"")
    if isinstance(part, int):
        return _tagged(b"i", b"%x" % part)
    if isinstance(part, float):
        return _tagged(b"d", struct.pack("<d", part))
    if isinstance(part, str):
        return _tagged(b"s", part.encode("utf-8", "surrogatepass"))
    if isinstance(part, (bytes, bytearray, memoryview)):
        return _tagged(b"b", bytes(part))
    if isinstance(part, os.PathLike):
        with open(part, "rb") as file:  # noqa: PTH123 (any os.PathLike)
            return _tagged(b"p", file.read())
    if isinstance(part, Mapping):
        pairs = ((encode(key), encode(value)) for key, value in part.items())
        return _joined(b"m", (key + value for key, value in sorted(pairs)))
    if isinstance(part, Set):
        return _joined(b"e", sorted(map(encode, part)))
    if isinstance(part, (list, tuple)):
        return _joined(b"l", map(encode, part))
    raise TypeError(
        f"a part of an object's key cannot be a {type(part).__name__}: pass what it consists of, "
        "as str, bytes, int, float, bool, None, a path, or a list, dict or set of these"
    )


def object_key(*parts: Any) -> str:
    r"""Return a key for an object, from everything that it is made from.

    The versions of this package and of tvm-ffi and the machine's architecture are in every key. All
    else that changes the object has to be among the parts: the sources and the headers that they
    include, the flags, the compiler and its version, the versions of packages that generate the
    code, the GPU's architecture, and the processor's features where the compiler asks the machine
    (``-march=native``). What is left out makes a cache give out an object that no longer fits.

    Parameters
    ----------
    parts
        A `str`, bytes-like object, `int`, `float`, `bool` or `None` stands for itself, an
        `os.PathLike` for the content of the file (not for its name; a `str` is never a path).
        Lists and tuples are one kind; mappings and sets are taken in an order of their own.
        Parts may be nested.

    Returns
    -------
    str
        64 hexadecimal digits: the SHA-256 of the parts with their types and lengths.

    Raises
    ------
    TypeError
        If there are no parts, or one is of another type.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> key = tol.object_key(pathlib.Path("math_ops.o"), ["-O2", "-fPIC"], {"compiler": "gcc 12.2"})
    >>> len(key)
    64
    >>> tol.object_key("ab", "c") == tol.object_key("a", "bc")
    False
    >>> tol.object_key({"arch": "sm_90a", "n": 1}) == tol.object_key({"n": 1, "arch": "sm_90a"})
    True
    """
    if not parts:
        raise TypeError("object_key needs parts: the sources, the flags, the compiler's version, …")
    made_for = (_SCHEME, __version__, tvm_ffi.__version__, sys.platform, os.uname().machine)
    return hashlib.sha256(encode((made_for, parts))).hexdigest()
