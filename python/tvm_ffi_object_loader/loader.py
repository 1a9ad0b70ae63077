# SPDX-License-Identifier: Apache-2.0
"""ObjectLoader and load_module: the shortest ways to load objects.

They are built on `Session` and `Dylib`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ._handles import Handle
from .process_session import default_session
from .session import Session

if TYPE_CHECKING:
    import tvm_ffi
    from typing_extensions import Self

    from .arguments import LinkOrder, Objects
    from .dylib import Dylib


class ObjectLoader(Handle):
    """One dylib to load objects into, one after the other.

    It is the simplest way from an object file to a function. It is a context manager; without
    ``with``, the objects are unloaded when the last reference to the loader and its functions goes.

    Parameters
    ----------
    name
        A name for the dylib that no live dylib of the session has; one is made up if it is `None`.
    session
        The session to make the dylib in; the default session if it is `None`.
    link_order
        As for `Session.create_dylib`.

    Raises
    ------
    ObjectLoaderError
        As `Session.create_dylib` raises it, with all its subclasses.
    OSError
        If a shared library cannot be read.
    TypeError
        If an argument is of another type.
    ValueError
        If the name is the path of an object.

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

    def __init__(
        self,
        name: str | None = None,
        session: Session | None = None,
        *,
        link_order: LinkOrder = (),
    ) -> None:
        if session is None:
            session = default_session()
        elif not isinstance(session, Session):
            raise TypeError(f"session must be a Session, not {type(session).__name__}")
        if name is not None and not isinstance(name, str):
            raise TypeError(
                f"name must be a str, not {type(name).__name__}: objects are given to load(), as "
                "in ObjectLoader().load(objects)"
            )
        if name is not None and name.endswith((".a", ".o", ".so")):
            raise ValueError(
                f"name {name!r} is that of a file: objects are given to load(), as in "
                f"ObjectLoader().load({name!r})"
            )
        self._dylib = session.create_dylib(name, link_order)

    @classmethod
    def _of(cls, dylib: Dylib) -> Self:
        self = cls.__new__(cls)
        self._dylib = dylib
        return self

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
            A path (`str` or `os.PathLike`), a bytes-like object, or an iterable mixing them. Each
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
            If the iterable is empty, or a path holds a null character.
        """
        self._dylib.load(objects, whole_archive=whole_archive)
        return self

    def reload(
        self,
        objects: Objects,
        *,
        whole_archive: bool = False,
        dependents: bool = False,
        keep_data: bool | Iterable[str] = False,
    ) -> Self:
        """Replace all that is loaded by the next version of it: `Dylib.reload`.

        Parameters
        ----------
        objects, whole_archive, dependents, keep_data
            As for `Dylib.reload`.

        Returns
        -------
        ObjectLoader
            The loader itself, whose functions call the new code.

        Raises
        ------
        ObjectLoaderError
            As `Dylib.reload` raises it, with all its subclasses. Nothing has changed then.
        OSError
            If a file cannot be read.
        TypeError, ValueError
            As `Dylib.reload` raises them.
        """
        self._dylib.reload(
            objects, whole_archive=whole_archive, dependents=dependents, keep_data=keep_data
        )
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

    def _ipython_key_completions_(self) -> list[str]:
        return self._dylib._ipython_key_completions_()

    def _repr_html_(self) -> str:
        return self._dylib._repr_html_()

    def close(self, timeout: float | None = None) -> None:
        """Unload the objects now: `Dylib.close`.

        Parameters
        ----------
        timeout
            As for `Dylib.close`.

        Raises
        ------
        ObjectLoaderError
            If it is called from within the loaded code.
        TimeoutError
            If a call still runs after `timeout` seconds. Nothing was closed then.
        TypeError, ValueError
            If `timeout` is no number, or negative.
        """
        self._dylib.close(timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle makes the loader of again.

        Raises
        ------
        TypeError
            If it cannot be sent; the message says why, and what to do.
        """
        from .transport import reduce_loader

        return reduce_loader(self)

    def __dask_tokenize__(self) -> Any:
        """Return what tells the loader's dylib from others in every process."""
        return self._dylib.__dask_tokenize__()

    def __repr__(self) -> str:
        """Show the dylib."""
        return f"<ObjectLoader into {self._dylib!r}>"


def load_module(
    objects: Objects,
    *,
    name: str | None = None,
    link_order: LinkOrder = (),
    whole_archive: bool = False,
    replace: bool = False,
) -> tvm_ffi.Module:
    """Load objects into a new dylib of the default session and return it as a module.

    Parameters
    ----------
    objects
        A path (`str` or `os.PathLike`), a bytes-like object, or an iterable mixing them; each is an
        object or an archive, as for `Dylib.load`.
    name
        As for `Session.create_dylib`.
    link_order
        As for `Session.create_dylib`.
    whole_archive
        As for `Dylib.load`.
    replace
        As for `Session.load`.

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
        If the iterable is empty, or a path holds a null character.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> tol.load_module("math_ops.o").simple_add(1, 2)
    3
    """
    return default_session().load_module(
        objects, name=name, link_order=link_order, whole_archive=whole_archive, replace=replace
    )
