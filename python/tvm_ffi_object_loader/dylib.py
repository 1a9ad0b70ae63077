# SPDX-License-Identifier: Apache-2.0
"""Dylib: a set of objects linked together, with one symbol table.

A `Dylib` is a thin wrapper around the native dylib. The native one stays loaded for as long as any
wrapper, module, function, or dylib linked against it lives; the wrapper holds no other state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ._module import module_class
from .errors import SessionClosedError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    import tvm_ffi
    from typing_extensions import Buffer, Self

    from ._native import Dylib as NativeDylib
    from .session import Session

    PathLike: TypeAlias = str | os.PathLike[str] | os.PathLike[bytes]
    ObjectLike: TypeAlias = PathLike | Buffer
    Objects: TypeAlias = ObjectLike | Sequence[ObjectLike]
    LinkOrder: TypeAlias = Sequence["Dylib | PathLike"]


def normalize_objects(objects: Objects) -> list[str | Buffer]:
    """Turn every accepted form of ``objects`` into the one that the native module takes.

    Parameters
    ----------
    objects
        A path (`str` or `os.PathLike`), a bytes-like object, or a sequence mixing them.

    Returns
    -------
    list
        Paths as `str` and contents as contiguous bytes-like objects, in the order given.

    Raises
    ------
    TypeError
        If ``objects``, or an element of it, is neither a path nor bytes-like. The message names
        the type and, for an element, its position.
    ValueError
        If the sequence is empty, or a path holds a null character.
    """
    single = _normalize_object(objects)
    if single is not None:
        return [single]
    if not isinstance(objects, Sequence):
        raise TypeError(
            "objects must be a path, a bytes-like object or a sequence of these, "
            f"not {type(objects).__name__}"
        )
    if not objects:
        raise ValueError("objects is an empty sequence: there is nothing to load")
    normalized = []
    for position, element in enumerate(objects):
        item = _normalize_object(element)
        if item is None:
            raise TypeError(
                f"objects[{position}] must be a path or a bytes-like object, "
                f"not {type(element).__name__}"
            )
        normalized.append(item)
    return normalized


def normalize_path(path: PathLike) -> str:
    """Turn a path into the form that the native module takes.

    Parameters
    ----------
    path
        A path (`str` or `os.PathLike`).

    Returns
    -------
    str
        The path.

    Raises
    ------
    ValueError
        If it holds a null character.
    """
    if not isinstance(path, str):
        path = os.fsdecode(path)
    if "\0" in path:
        raise ValueError(f"embedded null character in path {path!r}")
    return path


def _normalize_object(candidate: Any) -> str | Buffer | None:
    if isinstance(candidate, (str, os.PathLike)):
        return normalize_path(candidate)
    try:
        view = memoryview(candidate)
    except TypeError:
        return None
    return view if view.c_contiguous else view.tobytes()


class Dylib:
    """A set of objects with one symbol table: what a shared library is to the system's linker.

    Dylibs are made by `Session.create_dylib` and `Session.load`. Objects can be added at any time;
    the ones given in one call are linked together and may refer to each other, and to what the
    dylib has already. Shared libraries (``.so``) may be among them: from then on, what the dylib
    lacks is searched there.

    A symbol is searched in the dylib's own objects, then in its shared libraries in the order in
    which they were loaded, then in its link order, then in the process, and at last in what the
    shared libraries depend on.

    Archives (``.a``) are given as objects are. Their members are linked as a linker does: those
    that define what the objects of the same load, or members linked already, refer to and none of
    them defines. Of archives that are given without any object, the members that define a
    ``__tvm_ffi_`` symbol are linked, and what they need.

    Two `Dylib` objects are equal if they stand for the same dylib. The dylib is unloaded when
    `close` is called, or when the last reference to it, its module, its functions and the dylibs
    linked against it is gone.

    Raises
    ------
    TypeError
        If the class is called.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> session = tol.Session()
    >>> dylib = session.create_dylib("math")
    >>> dylib.load("math_ops.o")
    >>> dylib["simple_add"](1, 2)
    3
    >>> session["math"] is dylib
    True
    >>> dylib.close()
    """

    __slots__ = ("__weakref__", "_native", "_session")

    _native: NativeDylib
    _session: Session

    def __init__(self) -> None:
        raise TypeError("a Dylib is made by Session.create_dylib() or Session.load()")

    @classmethod
    def _wrap(cls, session: Session, native: NativeDylib) -> Self:
        self = cls.__new__(cls)
        self._native = native
        self._session = session
        return self

    @property
    def name(self) -> str:
        """The name, unique among the live dylibs of the session."""
        return self._native.name

    @property
    def session(self) -> Session:
        """The session that the dylib belongs to."""
        return self._session

    @property
    def link_order(self) -> list[Dylib | str]:
        """What is searched, in this order, for what the dylib itself does not define.

        Dylibs, and the paths of shared libraries as they were given.
        """
        return [
            entry if isinstance(entry, str) else self._session._wrap(entry)
            for entry in self._native.link_order
        ]

    @property
    def closed(self) -> bool:
        """Whether the dylib, or its session, has been closed."""
        return self._native.closed

    def load(self, objects: Objects, *, whole_archive: bool = False) -> None:
        """Link objects into the dylib and run their static initializers.

        Linking is complete when this returns: nothing is deferred to the first lookup or call.
        Files are read once; what happens to them later changes nothing.

        A path may also lead to a shared library (``.so``), which is told by its content. It is
        opened by the dynamic linker, privately: its constructors run, and its symbols are there for
        this and every later load into the dylib, and for the dylibs linked against it, but for
        nobody else. It is closed when the dylib is unloaded. Its functions are not the dylib's:
        `get_function` does not find them, while `lookup` finds its symbols.

        Parameters
        ----------
        objects
            A path (`str` or `os.PathLike`), a bytes-like object, or a sequence mixing them. Each
            is an object, an archive or a shared library; shared libraries and thin archives are
            given as paths, and one without a slash is a file in the current folder.
        whole_archive
            Link all members of the archives, not only those that are needed: the linker's
            ``--whole-archive``.

        Raises
        ------
        ObjectFormatError
            If an input, or a member of an archive that is needed, is not an object that can be
            loaded here, or if archives that were given alone have nothing to load.
        UndefinedSymbolError
            If symbols are missing; it names all of them.
        DuplicateSymbolError
            If a symbol is defined more than once.
        LinkError
            If linking fails for another reason, or a shared library cannot be opened.
        SessionClosedError
            If the dylib or its session is closed.
        OSError
            If a file cannot be read.
        TypeError
            If ``objects``, or an element of it, is neither a path nor bytes-like.
        ValueError
            If the sequence is empty, or a path holds a null character.

        Notes
        -----
        When it raises, the dylib is as it was before.

        Examples
        --------
        >>> import pathlib
        >>> import tvm_ffi_object_loader as tol
        >>> dylib = tol.Session().create_dylib()
        >>> dylib.load(["math_ops.o", pathlib.Path("string_ops.o").read_bytes()])
        >>> dylib["string_concat"]("a", "b")
        'ab'
        """
        self._native.load(normalize_objects(objects), whole_archive)

    def get_function(self, name: str) -> tvm_ffi.Function:
        """Look up an exported function.

        Parameters
        ----------
        name
            The function's name, such as ``simple_add`` (whose symbol is ``__tvm_ffi_simple_add``).

        Returns
        -------
        tvm_ffi.Function
            The function. It keeps the dylib loaded, but for `close`.

        Raises
        ------
        FunctionNotFoundError
            If no loaded object exports it. The message lists what is exported.
        SessionClosedError
            If the dylib or its session is closed.
        TypeError
            If the name is not a `str`.
        """
        return self._native.get_function(name)

    def __getitem__(self, name: str) -> tvm_ffi.Function:
        """Look up an exported function: the same as `get_function`."""
        return self._native.get_function(name)

    def __contains__(self, name: object) -> bool:
        """Tell whether a function of this name is exported."""
        return name in self._native.functions()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the exported functions, sorted."""
        return iter(self._native.functions())

    @property
    def functions(self) -> list[str]:
        """The names of the exported functions, sorted.

        Raises
        ------
        SessionClosedError
            If the dylib or its session is closed.
        """
        return self._native.functions()

    def lookup(self, symbol: str) -> int:
        """Look up the address of a symbol of the dylib, its shared libraries or its link order.

        Parameters
        ----------
        symbol
            The symbol as the linker knows it: mangled, and with the prefix ``__tvm_ffi_`` for an
            exported function.

        Returns
        -------
        int
            The address in this process. It is valid for as long as the dylib is loaded, which an
            address alone does not ensure.

        Raises
        ------
        UndefinedSymbolError
            If none of them defines the symbol.
        SessionClosedError
            If the dylib or its session is closed.
        TypeError
            If the symbol is not a `str`.
        """
        return self._native.lookup(symbol)

    @property
    def module(self) -> tvm_ffi.Module:
        """The dylib as a `tvm_ffi.Module`: functions, imports, metadata and documentation.

        Its functions are those of `get_function`. It keeps the dylib loaded, but for `close`.

        Raises
        ------
        SessionClosedError
            If the dylib or its session is closed.
        """
        return self._native.module(module_class)

    def close(self) -> None:
        """Unload the dylib now.

        Calls in other threads are waited for. Destructors and ``atexit`` handlers of the objects
        run, and the memory is freed. Functions and modules that are still held raise
        `SessionClosedError` when used. Closing twice is fine.

        Raises
        ------
        ObjectLoaderError
            If it is called from within the dylib's own code.
        """
        self._native.close()

    def __enter__(self) -> Self:
        """Return the dylib itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the dylib."""
        self.close()

    def __eq__(self, other: object) -> bool:
        """Tell whether both stand for the same dylib."""
        if not isinstance(other, Dylib):
            return NotImplemented
        return self._native.id == other._native.id

    def __hash__(self) -> int:
        """Hash by the dylib, as equality does."""
        return hash(self._native.id)

    def __repr__(self) -> str:
        """Show the name, the session, and what is exported."""
        head = f"<Dylib {self.name!r} of session {self._session.name!r}"
        if self.closed:
            return f"{head}, closed>"
        try:
            functions = self._native.functions()
        except SessionClosedError:  # by another thread, a moment ago
            return f"{head}, closed>"
        shown = ", ".join(functions[:4]) + (", ..." if len(functions) > 4 else "")
        return f"{head}, {len(functions)} function(s){': ' if shown else ''}{shown}>"
