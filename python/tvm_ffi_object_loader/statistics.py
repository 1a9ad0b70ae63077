# SPDX-License-Identifier: Apache-2.0
"""What sessions and dylibs have in memory, who needs it, and what their loads came to."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import _native


@dataclasses.dataclass(frozen=True)
class Holders:
    """Who holds a dylib, or needs its code: how many of each kind.

    Functions and modules keep a dylib open, and so do dylibs that are linked against it. A dylib
    that was closed stays in memory for all the others, but not for functions and modules, which
    only raise `SessionClosedError`.

    Attributes
    ----------
    functions : int
        Functions that were got from it.
    modules : int
        Its `tvm_ffi.Module`, once for each Python object and each module that imports it.
    calls : int
        Calls that are running, those of initializers included.
    objects : int
        What its code made and somebody else holds: results, such as arrays and functions, errors,
        and what was put into an argument. One that is in use right now can count twice.
    dylibs : int
        Dylibs that are linked against it, once for each time that it is in their link orders.
    embedded_modules : int
        Modules made from bytes that lie in its constants.
    destructors : int
        Destructors of thread-local variables that threads are to run when they end.
    for_ever : int
        What is never given back: code that tvm-ffi has registered without a name, and what the code
        may have left in a container that nobody can look through.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> dylib = tol.Session().load("math_ops.o")
    >>> add = dylib["simple_add"]
    >>> print(dylib.stats().held_by)
    1 function
    """

    functions: int
    modules: int
    calls: int
    objects: int
    dylibs: int
    embedded_modules: int
    destructors: int
    for_ever: int

    def as_dict(self) -> dict[str, int]:
        """Return the figures by their names.

        Returns
        -------
        dict[str, int]
            All of them.
        """
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Show those that there are: ``1 function, 2 objects``."""
        return _counted(self.as_dict())


def _counted(figures: dict[str, int]) -> str:
    texts = []
    for name, count in figures.items():
        what = name.replace("_", " ")
        if count:
            texts.append(f"{count} {what[:-1] if count == 1 and what.endswith('s') else what}")
    return ", ".join(texts) or "nobody"


@dataclasses.dataclass(frozen=True)
class DylibStats:
    """What a dylib has in memory, who needs it, and what its loads came to.

    What it has in memory is 0 once it is unloaded; what its loads came to stays. Two are equal if
    the same is in memory, held by the same: loads, failures and times don't count. The times add up
    over all loads, those that failed included. A load that an initializer makes counts with its own
    dylib, and its time is also that of the initializer.

    Attributes
    ----------
    name : str
        The dylib's name.
    closed : bool
        Whether it, or its session, was closed, or it was dropped.
    retained : bool
        Whether it is closed and its code is in memory nevertheless.
    objects : int
        Objects in memory.
    functions : int
        Exported functions; none of a closed dylib.
    symbols : int
        Symbols that its objects define, those that are not exported included.
    bytes_code : int
        The size of its code in memory, with what the loader adds, and with that of failed loads
        which somebody needs.
    bytes_constants : int
        The size of its constants.
    bytes_data : int
        The size of its variables, but for thread-local ones.
    loads : int
        Loads that succeeded.
    failures : int
        Loads that failed in being read, linked or initialized.
    seconds_reading : float
        How long reading the inputs took.
    seconds_linking : float
        How long linking took, with opening shared libraries.
    seconds_initializing : float
        How long initializers took, with making embedded modules.
    held_by : Holders
        Who holds it, or needs its code.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> dylib = tol.Session().load("math_ops.o", name="math")
    >>> stats = dylib.stats()
    >>> stats.objects, stats.loads, stats.failures
    (1, 1, 0)
    >>> dylib.close()
    >>> dylib.stats().bytes_code, dylib.stats().retained
    (0, False)
    """

    name: str
    closed: bool
    retained: bool
    objects: int
    functions: int
    symbols: int
    bytes_code: int
    bytes_constants: int
    bytes_data: int
    loads: int = dataclasses.field(compare=False)
    failures: int = dataclasses.field(compare=False)
    seconds_reading: float = dataclasses.field(compare=False)
    seconds_linking: float = dataclasses.field(compare=False)
    seconds_initializing: float = dataclasses.field(compare=False)
    held_by: Holders

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by their names.

        Returns
        -------
        dict[str, Any]
            All of them, `held_by` as a `dict` of its own; nothing but what JSON has.
        """
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class SessionStats:
    """What a session has in memory, which closed dylibs are among it, and what its loads came to.

    A closed session has nothing in memory but what is retained. Two are equal if as much is in
    memory: loads, failures and times don't count, nor which dylibs are retained.

    Attributes
    ----------
    dylibs : int
        Open dylibs.
    objects : int
        Objects in memory, those of retained dylibs included.
    functions : int
        Exported functions of the open dylibs.
    symbols : int
        Symbols that the objects define.
    bytes_code : int
        Memory for code. Each load takes it in units of 64 bytes, or of pages.
    bytes_constants : int
        Memory for constants.
    bytes_data : int
        Memory for variables, but for thread-local ones.
    bytes_reserved : int
        Address space. Some of it is kept for the next load, with up to 16 MiB of memory where large
        data was.
    retained : int
        Dylibs that were closed or dropped and whose code is still needed.
    retained_dylibs : tuple[DylibStats, ...]
        The figures of each of these, and by whom it is held.
    loads : int
        Loads that succeeded, also into dylibs that are gone.
    failures : int
        Loads that failed in being read, linked or initialized.
    seconds_reading : float
        How long reading took in all loads, those that failed included.
    seconds_linking : float
        How long linking took.
    seconds_initializing : float
        How long initializers took. A load that an initializer makes counts here as well as for
        itself.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> session = tol.Session()
    >>> dylib = session.load("math_ops.o")
    >>> stats = session.stats()
    >>> stats.dylibs, stats.objects, stats.retained
    (1, 1, 0)
    >>> stats.as_dict()["loads"]
    1
    """

    dylibs: int
    objects: int
    functions: int
    symbols: int
    bytes_code: int
    bytes_constants: int
    bytes_data: int
    bytes_reserved: int
    retained: int
    retained_dylibs: tuple[DylibStats, ...] = dataclasses.field(compare=False)
    loads: int = dataclasses.field(compare=False)
    failures: int = dataclasses.field(compare=False)
    seconds_reading: float = dataclasses.field(compare=False)
    seconds_linking: float = dataclasses.field(compare=False)
    seconds_initializing: float = dataclasses.field(compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by their names.

        Returns
        -------
        dict[str, Any]
            All of them, with a `list` of a `dict` for each retained dylib; nothing but what JSON
            has.
        """
        figures = dataclasses.asdict(self)
        figures["retained_dylibs"] = list(figures["retained_dylibs"])
        return figures


def _dylib_stats(figures: dict[str, Any]) -> DylibStats:
    return DylibStats(**{**figures, "held_by": Holders(**figures["held_by"])})


def stats_of_dylib(native: _native.Dylib) -> DylibStats:
    """Return the figures of a dylib."""
    return _dylib_stats(native.stats())


def stats_of_session(native: _native.Session) -> SessionStats:
    """Return the figures of a session."""
    figures = native.stats()
    retained = tuple(map(_dylib_stats, figures.pop("retained")))
    return SessionStats(**figures, retained=len(retained), retained_dylibs=retained)
