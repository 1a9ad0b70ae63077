# SPDX-License-Identifier: Apache-2.0
"""The exceptions of this package.

The native module raises these classes itself. They are also registered with tvm-ffi under their
class names, so that an error which passes through C++ arrives in Python as the same class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm_ffi

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .dylib import Dylib


class ObjectLoaderError(RuntimeError):
    """Something went wrong while objects were loaded, looked up or called.

    It is the base of every exception class that this package defines. It is raised itself for what
    has no narrower class, such as a dylib name that is taken.

    Parameters
    ----------
    message
        The cause in full, with the object concerned: its path, or ``<bytes>``.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> try:
    ...     tol.ObjectLoader().load(b"not an object")
    ... except tol.ObjectLoaderError as error:
    ...     print(type(error).__name__)
    ObjectFormatError
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


class ObjectFormatError(ObjectLoaderError, ValueError):
    """The input is not an object that can be loaded here.

    It is empty, truncated, malformed, no object at all, made for another architecture, or holds
    only the compiler's intermediate code (``-flto``).

    Parameters
    ----------
    message
        What the input is, and what was expected.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> try:
    ...     tol.load_module(b"")
    ... except tol.ObjectFormatError as error:
    ...     print("refused")
    refused
    """


class LinkError(ObjectLoaderError):
    """The objects cannot be linked.

    A relocation is out of range or of a type that is not supported, a shared library cannot be
    opened, or symbols are missing or defined twice (see the subclasses).

    Parameters
    ----------
    message
        The cause in full.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> issubclass(tol.UndefinedSymbolError, tol.LinkError)
    True
    """


class UndefinedSymbolError(LinkError):
    """Symbols that the objects refer to are defined nowhere.

    Neither the dylib, nor its shared libraries, nor its link order, nor the process defines them.

    Parameters
    ----------
    message
        Every missing symbol, demangled, the objects that need it, and the libraries that have it.
    symbols
        The missing symbols.
    libraries
        The installed libraries that have some of them.

    Attributes
    ----------
    symbols : tuple[str, ...]
        The missing symbols as the linker knows them, all of them.
    libraries : tuple[str, ...]
        Paths of installed shared libraries and archives that are known to have missing symbols:
        what a compiler's driver links without being asked. Loaded together with the objects, they
        supply them. Empty where the message says another way, such as preloading.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> error = tol.UndefinedSymbolError("app.o: undefined symbol: f()", ("_Z1fv",))
    >>> error.symbols
    ('_Z1fv',)
    """

    symbols: tuple[str, ...]
    libraries: tuple[str, ...]

    def __init__(
        self, message: str, symbols: tuple[str, ...] = (), libraries: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.symbols = tuple(symbols)
        self.libraries = tuple(libraries)


class DuplicateSymbolError(LinkError):
    """Symbols are defined more than once in one dylib.

    Parameters
    ----------
    message
        Every such symbol, demangled, and the objects that define it.
    symbols
        The symbols defined more than once.

    Attributes
    ----------
    symbols : tuple[str, ...]
        The symbols as the linker knows them, all of them.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> loader = tol.ObjectLoader().load("math_ops.o")
    >>> try:
    ...     loader.load("math_ops.o")
    ... except tol.DuplicateSymbolError as error:
    ...     print("__tvm_ffi_simple_add" in error.symbols)
    True
    """

    symbols: tuple[str, ...]

    def __init__(self, message: str, symbols: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.symbols = tuple(symbols)


class FunctionNotFoundError(ObjectLoaderError, AttributeError, LookupError):
    """No loaded object exports a function of this name.

    Parameters
    ----------
    message
        The name, and what is exported, the nearest name first.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> loader = tol.ObjectLoader().load("math_ops.o")
    >>> try:
    ...     loader.get_function("simple_ad")
    ... except tol.FunctionNotFoundError as error:
    ...     print("simple_add" in str(error))
    True
    """


class SessionClosedError(ObjectLoaderError):
    """The session or the dylib has been closed, and with it the code that was asked for.

    Parameters
    ----------
    message
        What was closed.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> with tol.ObjectLoader().load("math_ops.o") as loader:
    ...     simple_add = loader["simple_add"]
    >>> try:
    ...     simple_add(1, 2)
    ... except tol.SessionClosedError:
    ...     print("closed")
    closed
    """


class FrozenCacheError(ObjectLoaderError, LookupError):
    """A frozen `ObjectCache` lacks the object, or was to be changed.

    Parameters
    ----------
    message
        The cache's folder, and the key that it lacks or what was asked for.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> folder = tol.ObjectCache("kernels").path
    >>> cache = tol.ObjectCache(folder, frozen=True)
    >>> try:
    ...     cache.get_or_compile("scale", lambda: b"never called")
    ... except tol.FrozenCacheError:
    ...     print("missing")
    missing
    """


class LoadAllError(ObjectLoaderError):
    """Some of the loads of `Session.load_all` failed; the others are done.

    Parameters
    ----------
    message
        How many failed, and for each what was to be loaded and why it cannot be.
    results
        What came of each, in order.

    Attributes
    ----------
    results : tuple[Dylib or Exception, ...]
        For each of what was to be loaded, in order, its dylib, or the exception. Dylibs that
        nobody takes from here are unloaded when the error goes.

    Examples
    --------
    >>> import tvm_ffi_object_loader as tol
    >>> try:
    ...     tol.default_session().load_all(["math_ops.o", b"not an object"])
    ... except tol.LoadAllError as error:
    ...     [type(result).__name__ for result in error.results]
    ['Dylib', 'ObjectFormatError']
    """

    results: tuple[Dylib | Exception, ...]

    def __init__(self, message: str, results: Iterable[Dylib | Exception] = ()) -> None:
        super().__init__(message)
        self.results = tuple(results)


for _error in (
    ObjectLoaderError,
    ObjectFormatError,
    LinkError,
    UndefinedSymbolError,
    DuplicateSymbolError,
    FunctionNotFoundError,
    SessionClosedError,
    FrozenCacheError,
    LoadAllError,
):
    tvm_ffi.register_error(_error.__name__, _error)
del _error
