# SPDX-License-Identifier: Apache-2.0
"""Dylib: a set of objects linked together, with one symbol table.

A `Dylib` is a thin wrapper around the native dylib. The native one stays loaded for as long as any
wrapper, module, function, or dylib linked against it lives; the wrapper holds no other state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from logging import DEBUG, getLogger
from typing import TYPE_CHECKING, Any

from ._handles import Handle
from .arguments import (
    check_timeout,
    normalize_names,
    normalize_objects,
    require_bool,
    require_name,
)
from .errors import FunctionNotFoundError, SessionClosedError

if TYPE_CHECKING:
    import tvm_ffi
    from typing_extensions import Self

    from ._native import Dylib as NativeDylib
    from .arguments import Objects
    from .session import Session
    from .statistics import DylibStats
    from .symbols import Symbol

is_logged = getLogger("tvm_ffi_object_loader").isEnabledFor


class Dylib(Handle):
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
    >>> dylib = session.create_dylib("math").load("math_ops.o")
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

    def load(self, objects: Objects, *, whole_archive: bool = False) -> Self:
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
            A path (`str` or `os.PathLike`), a bytes-like object, or an iterable mixing them. Each
            is an object, an archive or a shared library; shared libraries and thin archives are
            given as paths, and one without a slash is a file in the current folder.
        whole_archive
            Link all members of the archives, not only those that are needed: the linker's
            ``--whole-archive``.

        Returns
        -------
        Dylib
            The dylib itself.

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
            If the iterable is empty, or a path holds a null character.

        Notes
        -----
        When it raises, the dylib is as it was before.

        Examples
        --------
        >>> import pathlib
        >>> import tvm_ffi_object_loader as tol
        >>> dylib = tol.Session().create_dylib()
        >>> dylib = dylib.load(["math_ops.o", pathlib.Path("string_ops.o").read_bytes()])
        >>> dylib["string_concat"]("a", "b")
        'ab'
        """
        require_bool("whole_archive", whole_archive)
        normalized = normalize_objects(objects)
        if is_logged(DEBUG):
            from ._log import load

            load(self, normalized, whole_archive, as_module=False)
        else:
            self._native.load(normalized, whole_archive, False)
        return self

    def reload(
        self,
        objects: Objects,
        *,
        whole_archive: bool = False,
        dependents: bool = False,
        keep_data: bool | Iterable[str] = False,
    ) -> Self:
        """Replace all that is loaded by the next version of it.

        The next version is linked first, and its static initializers run, while calls go on in the
        one that is loaded. Then the dylib switches: functions and modules that were handed out, in
        Python, C++ or elsewhere, call the new code from now on. Calls that are running finish in
        the old code, which is unloaded when the last of them has returned: its destructors and
        ``atexit`` handlers run, and its memory is freed.

        A function that the next version does not have raises `FunctionNotFoundError` when it is
        called, until a later version has it again.

        Parameters
        ----------
        objects
            As for `load`.
        whole_archive
            As for `load`.
        dependents
            Link the dylibs of the session that have this one in their link order, or one of those,
            anew as well, from what they were loaded from: all of them, or none. Otherwise they go
            on with the old code, which stays loaded for them, until they are reloaded themselves.
        keep_data
            Which global variables go on with the values that they have, in the place of those that
            the next version gives them: none; with `True` all for which that is safe; or those
            whose symbols are named. See Notes.

        Returns
        -------
        Dylib
            The dylib itself.

        Raises
        ------
        ObjectLoaderError
            As `load` raises it, with all its subclasses; and if the dylib's own initializers call
            it.
        LinkError
            Also if a variable that `keep_data` names cannot keep its value; the message says why.
        SessionClosedError
            If the dylib, its session or a dylib in its link order is closed.
        OSError
            If a file cannot be read.
        TypeError
            If an argument is of another type.
        ValueError
            If the iterable is empty, or a path holds a null character.

        Notes
        -----
        When it raises, nothing has changed. The functions' own code may call it: the call that does
        finishes in the old code.

        Values are copied as bytes, after the initializers have run, to variables of the same symbol
        and size. Not kept are variables that point into the code or data of the version that goes,
        objects with destructors, variables of threads, and static ones, which have no symbol. What
        another thread writes meanwhile may be lost.

        The modules that an object embeds are replaced with it. Looking for functions in a module's
        imports while another thread changes them is not safe, in tvm-ffi: a dylib with embedded
        modules is best reloaded while none of its functions runs.

        Examples
        --------
        >>> import tvm_ffi_object_loader as tol
        >>> dylib = tol.Session().load("math_ops.o")
        >>> add = dylib["simple_add"]
        >>> dylib = dylib.reload("math_ops.o")
        >>> add(1, 2)
        3
        """
        require_bool("whole_archive", whole_archive)
        require_bool("dependents", dependents)
        names = normalize_names("keep_data", keep_data)
        normalized = normalize_objects(objects)
        if is_logged(DEBUG):
            from ._log import reload

            reload(self, normalized, whole_archive, dependents, names)
        else:
            self._native.reload(normalized, whole_archive, dependents, names)
        return self

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
        try:
            return self._native.get_function(name)
        except TypeError:
            require_name("a function's name", name)
            raise
        except FunctionNotFoundError as error:
            error.name, error.obj = name, self
            raise

    def __getitem__(self, name: str) -> tvm_ffi.Function:
        """Look up an exported function: the same as `get_function`."""
        return self.get_function(name)

    def __contains__(self, name: object) -> bool:
        """Tell whether a function of this name is exported."""
        return name in self._native.functions()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the exported functions, sorted."""
        return iter(self._native.functions())

    def __len__(self) -> int:
        """Return how many functions are exported."""
        return len(self._native.functions())

    def __bool__(self) -> bool:
        """Return `True`, also where no function is exported."""
        return True

    def keys(self) -> list[str]:
        """Return the names of the exported functions, so that ``dict(dylib)`` has all of them.

        Raises
        ------
        SessionClosedError
            If the dylib or its session is closed.
        """
        return self._native.functions()

    def _ipython_key_completions_(self) -> list[str]:
        return [] if self.closed else self._native.functions()

    def get_function_metadata(self, name: str) -> dict[str, Any] | None:
        """Return the metadata of an exported function, as of a `tvm_ffi.Module`.

        Parameters
        ----------
        name
            The function's name.

        Returns
        -------
        dict or None
            ``{"type_schema": ...}``, or `None` where the object was compiled without metadata.

        Raises
        ------
        FunctionNotFoundError
            If no loaded object exports the function.
        SessionClosedError
            If the dylib or its session is closed.
        TypeError
            If the name is not a `str`.
        ValueError
            If the metadata is no JSON object.

        Notes
        -----
        Metadata is made by code of the object, which is called.
        """
        self.get_function(name)
        from .functions import metadata_of  # few need it, and it takes long

        return metadata_of(self._native, name)

    def get_function_doc(self, name: str) -> str | None:
        """Return the documentation of an exported function, as of a `tvm_ffi.Module`.

        Parameters
        ----------
        name
            The function's name.

        Returns
        -------
        str or None
            The documentation, or `None` where the object has none.

        Raises
        ------
        FunctionNotFoundError
            If no loaded object exports the function.
        SessionClosedError
            If the dylib or its session is closed.
        TypeError
            If the name is not a `str`.

        Notes
        -----
        The documentation is returned by code of the object, which is called.
        """
        self.get_function(name)
        return self._native.doc(name)

    @property
    def functions(self) -> list[str]:
        """The names of the exported functions, sorted.

        Raises
        ------
        SessionClosedError
            If the dylib or its session is closed.
        """
        return self._native.functions()

    @property
    def symbols(self) -> Sequence[Symbol]:
        """The functions and variables of the dylib's objects that have names, by address.

        Static functions are among them; static and thread-local variables are not, nor is what the
        loader adds.

        Raises
        ------
        SessionClosedError
            If the dylib is closed.
        """
        from .symbols import symbols_of

        return symbols_of(self._session.name, self._native)

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
        try:
            return self._native.lookup(symbol)
        except TypeError:
            require_name("a symbol", symbol)
            raise

    @property
    def module(self) -> tvm_ffi.Module:
        """The dylib as a `tvm_ffi.Module`: functions, imports, metadata and documentation.

        Its functions are those of `get_function`. It keeps the dylib loaded, but for `close`.

        Raises
        ------
        SessionClosedError
            If the dylib or its session is closed.
        """
        return self._native.module()

    def stats(self) -> DylibStats:
        """Count what the dylib has in memory, who needs it, and what its loads came to.

        A dylib that was closed has figures as well.

        Returns
        -------
        DylibStats
            The figures, each as of some moment of the call.
        """
        from .statistics import stats_of_dylib

        return stats_of_dylib(self._native)

    def close(self, timeout: float | None = None) -> None:
        """Unload the dylib now.

        Calls in other threads are waited for; Ctrl-C ends the wait. Destructors and ``atexit``
        handlers of the objects run, and the memory is freed. Functions and modules that are still
        held raise `SessionClosedError` when used. Closing twice is fine.

        Parameters
        ----------
        timeout
            How many seconds to wait for calls; `None` waits until they have returned.

        Raises
        ------
        ObjectLoaderError
            If it is called from within the dylib's own code.
        TimeoutError
            If a call still runs after `timeout` seconds. Nothing was closed then.
        TypeError, ValueError
            If `timeout` is no number, or negative.
        """
        seconds = check_timeout(timeout)
        if is_logged(DEBUG):
            from ._log import close_dylib

            close_dylib(self, seconds)
        else:
            self._native.close(seconds)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle makes the dylib of again.

        Raises
        ------
        TypeError
            If it cannot be sent; the message says why, and what to do.
        """
        from .transport import reduce_dylib

        return reduce_dylib(self)

    def __dask_tokenize__(self) -> Any:
        """Return what tells the dylib from others in every process."""
        from .transport import tokenize_dylib

        return tokenize_dylib(self)

    def __eq__(self, other: object) -> bool:
        """Tell whether both stand for the same dylib."""
        if not isinstance(other, Dylib):
            return NotImplemented
        return self._native.id == other._native.id

    def __hash__(self) -> int:
        """Hash by the dylib, as equality does."""
        return hash(self._native.id)

    def _repr_html_(self) -> str:
        from ._html import show_dylib

        return show_dylib(self)

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
