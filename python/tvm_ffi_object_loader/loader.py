# SPDX-License-Identifier: Apache-2.0
"""ObjectLoader, load_module, and ``tvm_ffi.load_module`` for ``.o`` and ``.a`` files.

The shortest ways to load objects, all of them built on `Session` and `Dylib`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import tvm_ffi
from tvm_ffi import core

from .errors import DuplicateSymbolError, UndefinedSymbolError
from .session import Session, default_session

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from .dylib import Dylib, Objects


class ObjectLoader:
    """One dylib to load objects into, one after the other.

    It is the simplest way from an object file to a function. It is a context manager; without
    ``with``, the objects are unloaded when the last reference to the loader and its functions goes.

    Parameters
    ----------
    name
        A name for the dylib that no live dylib of the session has; one is made up if it is `None`.
    session
        The session to make the dylib in; the default session if it is `None`.

    Raises
    ------
    ObjectLoaderError
        If the name is taken.
    SessionClosedError
        If the session is closed.
    TypeError
        If an argument is of another type.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> loader = tol.ObjectLoader()
    >>> loader.load("math_ops.o").load("string_ops.o").get_function("simple_add")(1, 2)
    3
    >>> loader["string_concat"]("a", "b")
    'ab'
    """

    __slots__ = ("__weakref__", "_dylib")

    def __init__(self, name: str | None = None, session: Session | None = None) -> None:
        if session is None:
            session = default_session()
        elif not isinstance(session, Session):
            raise TypeError(f"session must be a Session, not {type(session).__name__}")
        self._dylib = session.create_dylib(name)

    @property
    def dylib(self) -> Dylib:
        """The dylib that the objects are loaded into."""
        return self._dylib

    @property
    def functions(self) -> list[str]:
        """The names of the exported functions, sorted.

        Raises
        ------
        SessionClosedError
            If the loader or its session is closed.
        """
        return self._dylib.functions

    @property
    def module(self) -> tvm_ffi.Module:
        """What has been loaded, as a `tvm_ffi.Module`.

        Raises
        ------
        SessionClosedError
            If the loader or its session is closed.
        """
        return self._dylib.module

    @property
    def closed(self) -> bool:
        """Whether the loader, or its session, has been closed."""
        return self._dylib.closed

    def load(self, objects: Objects, *, whole_archive: bool = False) -> Self:
        """Link objects, run their static initializers, and return the loader.

        Parameters
        ----------
        objects
            A path (`str` or `os.PathLike`), a bytes-like object, or a sequence mixing them. Each
            is an object or an archive, as for `Dylib.load`. The ones given together may refer to
            each other and to what was loaded before. Of archives that are given without any
            object, the members with TVM-FFI functions are linked, and what these need.
        whole_archive
            As for `Dylib.load`.

        Returns
        -------
        ObjectLoader
            The loader itself.

        Raises
        ------
        ObjectLoaderError
            As `Dylib.load` raises it, with all its subclasses. The loader is then as it was before.
        OSError
            If a file cannot be read.
        TypeError
            If ``objects``, or an element of it, is neither a path nor bytes-like.
        ValueError
            If the sequence is empty, or a path holds a null character.
        """
        self._dylib.load(objects, whole_archive=whole_archive)
        return self

    def get_function(self, name: str) -> tvm_ffi.Function:
        """Look up an exported function.

        Parameters
        ----------
        name
            The function's name, such as ``simple_add``.

        Returns
        -------
        tvm_ffi.Function
            The function. It keeps its code loaded, but for `close`.

        Raises
        ------
        FunctionNotFoundError
            If no loaded object exports it. The message lists what is exported.
        SessionClosedError
            If the loader or its session is closed.
        TypeError
            If the name is not a `str`.
        """
        return self._dylib.get_function(name)

    def __getitem__(self, name: str) -> tvm_ffi.Function:
        """Look up an exported function: the same as `get_function`."""
        return self._dylib.get_function(name)

    def __contains__(self, name: object) -> bool:
        """Tell whether a function of this name is exported."""
        return name in self._dylib

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the exported functions, sorted."""
        return iter(self._dylib)

    def close(self) -> None:
        """Unload the objects now: `Dylib.close`.

        Raises
        ------
        ObjectLoaderError
            If it is called from within the loaded code.
        """
        self._dylib.close()

    def __enter__(self) -> Self:
        """Return the loader itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the loader."""
        self.close()

    def __repr__(self) -> str:
        """Show the dylib."""
        return f"<ObjectLoader into {self._dylib!r}>"


def load_module(objects: Objects, *, whole_archive: bool = False) -> tvm_ffi.Module:
    """Load objects into a new dylib of the default session and return it as a module.

    Parameters
    ----------
    objects
        A path (`str` or `os.PathLike`), a bytes-like object, or a sequence mixing them; each is an
        object or an archive, as for `Dylib.load`.
    whole_archive
        As for `Dylib.load`.

    Returns
    -------
    tvm_ffi.Module
        The module, whose attributes are the exported functions. The objects stay loaded for as
        long as it, or a function of it, lives.

    Raises
    ------
    ObjectLoaderError
        As `Session.load` raises it, with all its subclasses.
    OSError
        If a file cannot be read.
    TypeError
        If ``objects``, or an element of it, is neither a path nor bytes-like.
    ValueError
        If the sequence is empty, or a path holds a null character.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> tol.load_module("math_ops.o").simple_add(1, 2)
    3
    """
    return default_session().load_module(objects, whole_archive=whole_archive)


# tvm-ffi carries an error's kind and message from a callback to its caller, and makes the exception
# anew from these. What else an exception holds (`.symbols`, `.filename`) waits here meanwhile.
_returning = threading.local()


def _restore(kind: str, default: Callable[[str], BaseException]) -> None:
    def new(_cls: type, message: str) -> BaseException:
        error: BaseException | None = getattr(_returning, "error", None)
        _returning.error = None
        if error is not None and type(error).__name__ == kind and str(error) == message:
            return error
        return default(message)

    # tvm-ffi takes nothing but a class here.
    core.ERROR_NAME_TO_TYPE[kind] = type(kind, (), {"__new__": new})


def _load_from_file(path: str, _format: str) -> tvm_ffi.Module:
    try:
        return load_module(str(path))
    except (OSError, UndefinedSymbolError, DuplicateSymbolError) as error:
        kind = type(error).__name__
        if kind not in core.ERROR_NAME_TO_TYPE:
            _restore(kind, RuntimeError)
        _returning.error = copy.copy(error)
        error.__dict__["__tvm_ffi_error__"] = core.Error(kind, str(error), "")
        raise


def register_with_tvm_ffi() -> None:
    """Let ``tvm_ffi.load_module`` load ``.o`` and ``.a`` files through the default session.

    tvm-ffi makes the module, so that its functions are plain `tvm_ffi.Function` objects: calls take
    as long as those of a dlopened library's.

    It is done when the package is imported, and doing it again changes nothing.

    Raises
    ------
    RuntimeError
        If tvm-ffi refuses the registration.
    """
    for cls in (UndefinedSymbolError, DuplicateSymbolError):
        _restore(cls.__name__, cls)
    for suffix in ("o", "a"):
        loader = f"ffi.Module.load_from_file.{suffix}"
        tvm_ffi.register_global_func(loader, _load_from_file, override=True)
