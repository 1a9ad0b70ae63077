# SPDX-License-Identifier: Apache-2.0
"""Session: the JITDylibs that can be linked against each other, and their memory.

A session keeps its `Dylib` wrappers in a weak mapping only, keyed by the native dylib's serial
number, so that asking twice gives the same object while dropping it still unloads the dylib.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

from . import _native
from .dylib import Dylib, normalize_objects
from .errors import ObjectLoaderError

if TYPE_CHECKING:
    from types import TracebackType

    import tvm_ffi
    from typing_extensions import Self

    from .dylib import Objects

_serial_numbers = itertools.count(1)


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

    __slots__ = ("__weakref__", "_lock", "_native", "_wrappers")

    def __init__(self, name: str | None = None) -> None:
        self._native = _native.Session(f"session{next(_serial_numbers)}" if name is None else name)
        self._wrappers: weakref.WeakValueDictionary[int, Dylib] = weakref.WeakValueDictionary()
        # Reentrant: making a wrapper can start a garbage collection whose finalizers come here.
        self._lock = threading.RLock()

    def _wrap(self, native: _native.Dylib) -> Dylib:
        with self._lock:
            found = self._wrappers.get(native.id)
            if found is not None:
                return found
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

    def create_dylib(self, name: str | None = None, link_order: Sequence[Dylib] = ()) -> Dylib:
        """Make an empty dylib.

        Parameters
        ----------
        name
            A name that no live dylib of the session has; one is made up if it is `None`.
        link_order
            Dylibs of this session, searched in this order for what the new one does not define
            itself. They stay loaded for as long as the new one is.

        Returns
        -------
        Dylib
            The new dylib.

        Raises
        ------
        ObjectLoaderError
            If the name is taken, or a dylib belongs to another session.
        SessionClosedError
            If the session, or a dylib in ``link_order``, is closed.
        TypeError
            If an argument is of another type.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> session = tol.Session()
        >>> base = session.create_dylib("base")
        >>> session.create_dylib("app", link_order=[base]).link_order == [base]
        True
        """
        if not isinstance(link_order, Sequence):
            raise TypeError(
                f"link_order must be a sequence of Dylib objects, not {type(link_order).__name__}"
            )
        natives = []
        for position, dylib in enumerate(link_order):
            if not isinstance(dylib, Dylib):
                raise TypeError(
                    f"link_order[{position}] must be a Dylib, not {type(dylib).__name__}"
                )
            natives.append(dylib._native)
        return self._wrap(self._native.create_dylib(name, natives))

    def load(
        self,
        objects: Objects,
        *,
        name: str | None = None,
        link_order: Sequence[Dylib] = (),
        whole_archive: bool = False,
    ) -> Dylib:
        """Load objects into a new dylib: `create_dylib` and `Dylib.load` in one step.

        Parameters
        ----------
        objects
            As for `Dylib.load`: objects and archives.
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
        normalized = normalize_objects(objects)
        dylib = self.create_dylib(name, link_order)
        try:
            dylib._native.load(normalized, whole_archive)
        except BaseException:
            dylib.close()
            raise
        return dylib

    def load_module(
        self,
        objects: Objects,
        *,
        name: str | None = None,
        link_order: Sequence[Dylib] = (),
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
        return self.load(
            objects, name=name, link_order=link_order, whole_archive=whole_archive
        ).module

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
_default_session_lock = threading.Lock()


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
        with _default_session_lock:
            if _default_session is None:
                _default_session = _DefaultSession("default")
    return _default_session
