# SPDX-License-Identifier: Apache-2.0
"""What the functions and variables of loaded code are called, and where they are."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _native

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Symbol:
    """A function or a variable of loaded code.

    Parameters
    ----------
    session
        The name of the session.
    dylib
        The name of the dylib.
    symbol
        What the linker calls it, such as ``_Z5scalel``.
    name
        What the source calls it, such as ``scale(long)``; the symbol where that is no other name.
    address
        Where it begins.
    size
        Its size in bytes; 0 where the object does not say.
    object
        The object that it came from: the path, ``<bytes>``, or ``libfoo.a(bar.o)``.
    section
        In which part of memory it lies: ``.text`` (code), ``.rodata`` (constants), ``.data``, or
        ``.bss`` (data without initial values).
    is_function
        Whether it is a function.
    is_static
        Whether it is a static function, or a part of a function that the compiler has split off.
    is_exported
        Whether other dylibs can be linked to it.
    is_weak
        Whether others may define it as well, as inline functions are.

    Raises
    ------
    Nothing of its own.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> dylib = tol.Session().load("math_ops.o", name="math")
    >>> symbols = {symbol.symbol: symbol for symbol in dylib.symbols}
    >>> symbols["__tvm_ffi_simple_add"].section
    '.text'
    """

    session: str
    dylib: str
    symbol: str
    name: str
    address: int
    size: int
    object: str
    section: str
    is_function: bool
    is_static: bool
    is_exported: bool
    is_weak: bool


@dataclass(frozen=True)
class Location:
    """What an address of loaded code is.

    Parameters
    ----------
    address
        The address that was asked for.
    session
        The name of the session.
    dylib
        The name of the dylib.
    object
        The object that the code came from.
    file
        The source file that the instruction there was made from; `None` where no debug information
        says so, and in sessions without ``debug=True``.
    line
        The line of that file.
    symbol
        The function that the address lies in; `None` in what the loader made itself, and between
        functions.

    Raises
    ------
    Nothing of its own.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> dylib = tol.Session().load("math_ops.o", name="math")
    >>> location = tol.symbolize(dylib.lookup("__tvm_ffi_simple_add") + 1)
    >>> str(location).endswith("__tvm_ffi_simple_add+0x1 in dylib 'math'")
    True
    """

    address: int
    session: str
    dylib: str
    object: str
    file: str | None
    line: int | None
    symbol: Symbol | None

    @property
    def offset(self) -> int | None:
        """How many bytes after the symbol the address is; `None` without one."""
        return None if self.symbol is None else self.address - self.symbol.address

    def __str__(self) -> str:
        """Show the address as a line of a backtrace does."""
        name = "??" if self.symbol is None else f"{self.symbol.name}+{self.offset:#x}"
        at = "" if self.file is None else f" at {self.file}:{self.line}"
        return f"{self.address:#x} {name}{at} in dylib {self.dylib!r}"


def symbols_of(session: str, native: _native.Dylib) -> Sequence[Symbol]:
    """Return the functions and variables of a dylib, by address."""
    dylib = native.name
    return tuple(Symbol(session, dylib, *fields) for fields in native.symbols())


def symbolize_in(native: _native.Session | None, address: int) -> Location | None:
    """Return what an address is, in a session or in any.

    Raises
    ------
    TypeError
        If the address is no `int`.
    """
    address = operator.index(address)
    if not 0 <= address < 1 << 64:
        return None
    found = _native.symbolize(address) if native is None else native.symbolize(address)
    if found is None:
        return None
    session, dylib, origin, file, line, fields = found
    symbol = None if fields is None else Symbol(session, dylib, *fields)
    return Location(address, session, dylib, origin, file, line, symbol)


def symbolize(address: int) -> Location | None:
    """Return what an address is, in the code that any session has loaded.

    Parameters
    ----------
    address
        An address of code, such as a backtrace or a profiler shows.

    Returns
    -------
    Location or None
        What is there; `None` if it is no loaded code.

    Raises
    ------
    TypeError
        If the address is no `int`.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> dylib = tol.Session().load("math_ops.o")
    >>> tol.symbolize(dylib.lookup("__tvm_ffi_simple_add")).symbol.symbol
    '__tvm_ffi_simple_add'
    >>> tol.symbolize(0) is None
    True
    """
    return symbolize_in(None, address)
