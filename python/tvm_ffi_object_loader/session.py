# SPDX-License-Identifier: Apache-2.0
"""Session: the JITDylibs that can be linked against each other, and their memory.

A session keeps its `Dylib` wrappers in a weak mapping only, keyed by the native dylib's serial
number, so that asking twice gives the same object while dropping it still unloads the dylib.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from . import _native
from .dylib import Dylib, normalize_objects, normalize_path
from .errors import ObjectFormatError, ObjectLoaderError

if TYPE_CHECKING:
    from types import TracebackType

    import tvm_ffi
    from typing_extensions import Self

    from .dylib import LinkOrder, Objects


def _shown(objects: Objects) -> str:
    if isinstance(objects, (str, os.PathLike)):
        return os.fsdecode(objects)
    return ", ".join(map(str, normalize_objects(objects)))


_serial_numbers = itertools.count(1)

# For the wrappers of all sessions, and for making the default one. Reentrant: making a wrapper can
# start a garbage collection whose finalizers come here. Taken over a fork, so that a child never
# finds it taken by a thread that it does not have.
_lock = threading.RLock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


def _link_entries(link_order: LinkOrder) -> list[_native.Dylib | str]:
    if not isinstance(link_order, Sequence) or isinstance(link_order, (str, bytes)):
        raise TypeError(
            "link_order must be a sequence of Dylib objects and paths, "
            f"not {type(link_order).__name__}"
        )
    entries: list[_native.Dylib | str] = []
    for position, entry in enumerate(link_order):
        if isinstance(entry, Dylib):
            entries.append(entry._native)
        elif isinstance(entry, (str, os.PathLike)):
            entries.append(normalize_path(entry))
        else:
            raise TypeError(
                f"link_order[{position}] must be a Dylib or the path of a shared library, "
                f"not {type(entry).__name__}"
            )
    return entries


class Session:
    """Dylibs that can be linked against each other, with the memory that they share.

    Sessions are independent: closing one touches no other. They cost little, so that one for each
    job is fine. A dylib keeps its session open; `close`, or leaving the ``with`` block, unloads
    all its dylibs at once.

    Parameters
    ----------
    name
        A name for messages; one is made up if it is `None`. It need not be unique.

    Raises
    ------
    ObjectLoaderError
        If the session cannot be set up.
    TypeError
        If the name is not a `str`.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> with tol.Session() as session:
    ...     base = session.load("math_ops.o", name="base")
    ...     app = session.load("string_ops.o", name="app", link_order=[base])
    ...     app["string_concat"]("a", "b")
    'ab'
    >>> session.closed
    True
    """

    __slots__ = ("__weakref__", "_native", "_wrappers")

    def __init__(self, name: str | None = None) -> None:
        self._native = _native.Session(f"session{next(_serial_numbers)}" if name is None else name)
        self._wrappers: weakref.WeakValueDictionary[int, Dylib] = weakref.WeakValueDictionary()

    def _wrap(self, native: _native.Dylib) -> Dylib:
        with _lock:
            found = self._wrappers.get(native.id)
            return self._wrap_new(native) if found is None else found

    def _wrap_new(self, native: _native.Dylib) -> Dylib:
        return self._wrappers.setdefault(native.id, Dylib._wrap(self, native))

    @property
    def name(self) -> str:
        """The session's name."""
        return self._native.name

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._native.closed

    @property
    def dylibs(self) -> dict[str, Dylib]:
        """The live dylibs by name, in order of creation.

        The `dict` is a snapshot, and holding it holds the dylibs. It is empty for a closed session.
        """
        if self._native.closed:
            return {}
        return {native.name: self._wrap(native) for native in self._native.dylibs()}

    def create_dylib(self, name: str | None = None, link_order: LinkOrder = ()) -> Dylib:
        """Make an empty dylib.

        Parameters
        ----------
        name
            A name that no live dylib of the session has; one is made up if it is `None`.
        link_order
            Dylibs of this session and paths of shared libraries (``.so``), searched in this order
            for what the new one does not define itself. They stay loaded for as long as the new one
            is. The libraries are opened privately; a path without a slash is a file in the current
            folder.

        Returns
        -------
        Dylib
            The new dylib.

        Raises
        ------
        ObjectLoaderError
            If the name is taken, or a dylib belongs to another session.
        ObjectFormatError
            If a path does not lead to a shared library.
        LinkError
            If a shared library cannot be opened; the message says what the dynamic linker says.
        SessionClosedError
            If the session, or a dylib in ``link_order``, is closed.
        OSError
            If a file cannot be read.
        TypeError
            If an argument is of another type.
        ValueError
            If a path holds a null character.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> base = session.create_dylib("base")
        >>> session.create_dylib("app", link_order=[base]).link_order == [base]
        True
        """
        entries = _link_entries(link_order) if link_order != () else []
        native = self._native.create_dylib(name, entries)
        with _lock:
            return self._wrap_new(native)

    def load(
        self,
        objects: Objects,
        *,
        name: str | None = None,
        link_order: LinkOrder = (),
        whole_archive: bool = False,
    ) -> Dylib:
        """Load objects into a new dylib: `create_dylib` and `Dylib.load` in one step.

        Parameters
        ----------
        objects
            As for `Dylib.load`: objects, archives and shared libraries.
        name
            As for `create_dylib`.
        link_order
            As for `create_dylib`.
        whole_archive
            As for `Dylib.load`.

        Returns
        -------
        Dylib
            The new dylib.

        Raises
        ------
        ObjectLoaderError
            As `create_dylib` and `Dylib.load` raise it, with all its subclasses.
        OSError
            If a file cannot be read.
        TypeError
            If an argument is of another type.
        ValueError
            If ``objects`` is an empty sequence, or a path holds a null character.

        Notes
        -----
        When it raises, the session is as it was before: the name is free.
        """
        return self._load(objects, name, link_order, whole_archive)[0]

    def _load(
        self, objects: Objects, name: str | None, link_order: LinkOrder, whole_archive: bool
    ) -> tuple[Dylib, bool]:
        """Return the new dylib, and whether anything but shared libraries was loaded."""
        normalized = normalize_objects(objects)
        dylib = self.create_dylib(name, link_order)
        try:
            return dylib, dylib._native.load(normalized, whole_archive)
        except BaseException:
            dylib.close()
            raise

    def load_module(
        self,
        objects: Objects,
        *,
        name: str | None = None,
        link_order: LinkOrder = (),
        whole_archive: bool = False,
    ) -> tvm_ffi.Module:
        """Load objects into a new dylib and return it as a module.

        Parameters
        ----------
        objects
            As for `load`.
        name
            As for `create_dylib`.
        link_order
            As for `create_dylib`.
        whole_archive
            As for `Dylib.load`.

        Returns
        -------
        tvm_ffi.Module
            The module, whose attributes are the exported functions. It keeps the dylib loaded.

        Raises
        ------
        ObjectFormatError
            Also if there is no object, but only a shared library.
        ObjectLoaderError
            As `load` raises it, with all its subclasses.
        OSError
            If a file cannot be read.
        TypeError
            If an argument is of another type.
        ValueError
            If ``objects`` is an empty sequence, or a path holds a null character.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> session.load_module("math_ops.o").simple_add(1, 2)
        3
        """
        dylib, any_object = self._load(objects, name, link_order, whole_archive)
        if not any_object:
            dylib.close()
            raise ObjectFormatError(
                f"{_shown(objects)}: a shared library without an object has no functions to make a "
                "module of; use tvm_ffi.load_module for those that the library itself exports"
            )
        return dylib.module

    def __getitem__(self, name: str) -> Dylib:
        """Return the live dylib of this name.

        Raises
        ------
        KeyError
            If there is none.
        """
        dylibs = self.dylibs
        try:
            return dylibs[name]
        except KeyError:
            live = ", ".join(map(repr, dylibs)) or "none"
            message = f"session {self.name!r} has no dylib {name!r}; its dylibs: {live}"
            raise KeyError(message) from None

    def __contains__(self, name: object) -> bool:
        """Tell whether a live dylib has this name."""
        return name in self.dylibs

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the live dylibs, in order of creation."""
        return iter(self.dylibs)

    def stats(self) -> dict[str, int]:
        """Count what the session holds.

        Returns
        -------
        dict
            What is there now: ``dylibs``, ``objects``, ``symbols``; sizes in bytes: ``bytes_code``,
            ``bytes_constants``, ``bytes_data``, and ``bytes_reserved`` of address space;
            ``retained``, the dylibs that were closed or dropped and whose code is still needed;
            and ``loads``, how many loads ever succeeded. A closed session holds nothing else.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> dylib = session.load("math_ops.o")
        >>> session.stats()["dylibs"]
        1
        """
        return self._native.stats()

    def close(self) -> None:
        """Unload all dylibs of the session now, and refuse new ones.

        Calls in other threads are waited for. Functions and modules that are still held raise
        `SessionClosedError` when used. Closing twice is fine.

        Raises
        ------
        ObjectLoaderError
            If this is the default session, or it is called from within a dylib's own code.
        """
        self._native.close()

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the session."""
        self.close()

    def __repr__(self) -> str:
        """Show the name and the number of live dylibs."""
        if self.closed:
            return f"<Session {self.name!r}, closed>"
        return f"<Session {self.name!r}, {len(self.dylibs)} dylib(s)>"


class _DefaultSession(Session):
    __slots__ = ()

    def close(self) -> NoReturn:
        raise ObjectLoaderError("the default session is never closed; close its dylibs instead")

    def __enter__(self) -> NoReturn:
        self.close()


_default_session: Session | None = None


def default_session() -> Session:
    """Return the session that the whole process shares.

    It is made when it is first asked for, and never closed: its `Session.close` raises.

    Returns
    -------
    Session
        The same object each time.

    Raises
    ------
    ObjectLoaderError
        If the session cannot be set up.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> tol.default_session() is tol.default_session()
    True
    """
    global _default_session
    if _default_session is None:
        with _lock:
            if _default_session is None:
                _default_session = _DefaultSession("default")
    return _default_session
