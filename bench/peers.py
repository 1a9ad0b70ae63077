# SPDX-License-Identifier: Apache-2.0
"""The competitors: each way to load an object and call what is in it, behind one small interface.

A competitor that can't run here is a string saying why; it reaches the report as that.
"""

from __future__ import annotations

import _ctypes
import ctypes
import importlib
import importlib.metadata
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import tvm_ffi

from bench import objects

OURS = "tvm-ffi-object-loader"
PEER = "apache-tvm-ffi-orcjit"
DLOPEN = "dlopen"
MODULES = {OURS: "tvm_ffi_object_loader", PEER: "tvm_ffi_orcjit"}


def imported(module: str) -> ModuleType | str:
    """Import a module, or say why it can't be."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module.partition(".")[0]:
            return "not installed"
        return f"cannot be imported: {error}"
    except ImportError as error:
        return f"cannot be imported: {error}"


def version(distribution: str) -> str:
    """Return an installed distribution's version, or ``"not installed"``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


@dataclass(frozen=True)
class Loader:
    """A way to load: ``load(path)`` returns what keeps the code loaded, and then ``add``.

    Parameters
    ----------
    load
        Takes the object's path, or the shared library's if ``image`` says so.
    image
        ``"object"`` or ``"shared"``.
    release
        Unloads, where dropping the result does not.
    """

    load: Callable[[str], tuple[Any, Callable[..., Any]]]
    image: str = "object"
    release: Callable[[Any], object] | None = None

    def path(self, obj: Path) -> str:
        """Return the path to give to ``load`` for an object."""
        return str(objects.shared(obj) if self.image == "shared" else obj)


def ours() -> Loader | str:
    """Return this package, with a session of its own."""
    package = imported(MODULES[OURS])
    if isinstance(package, str):
        return package
    session = package.Session()

    def load(path: str) -> tuple[Any, Callable[..., Any]]:
        dylib = session.load(path)
        return dylib, dylib.get_function("add")

    return Loader(load)


def orcjit() -> Loader | str:
    """Return the peer package, with a session of its own."""
    package = imported(MODULES[PEER])
    if isinstance(package, str):
        return package
    session = package.ExecutionSession()

    def load(path: str) -> tuple[Any, Callable[..., Any]]:
        module = session.load_module(path)
        return module, module.get_function("add")

    return Loader(load)


def dlopen() -> Loader | str:
    """Return ``tvm_ffi.load_module`` of a shared library, unloaded when dropped."""

    def load(path: str) -> tuple[Any, Callable[..., Any]]:
        module = tvm_ffi.load_module(path, keep_module_alive=False)
        return module, module.get_function("add")

    return Loader(load, image="shared")


def wrapped(address: int, keep: object = None) -> Callable[..., Any]:
    """Return the FFI function at an address."""
    function: Callable[..., Any] = tvm_ffi.Function.__from_extern_c__(
        address, keep_alive_object=keep
    )
    return function


def by_ctypes() -> Loader | str:
    """Return ``ctypes``' dlopen, its symbol made an FFI function."""

    def load(path: str) -> tuple[Any, Callable[..., Any]]:
        library = ctypes.CDLL(path)
        address = ctypes.cast(library["__tvm_ffi_add"], ctypes.c_void_p).value
        assert address is not None
        return library, wrapped(address)

    return Loader(load, "shared", lambda kept: _ctypes.dlclose(kept[0]._handle))


def by_cffi() -> Loader | str:
    """Return cffi's dlopen in ABI mode, its symbol made an FFI function."""
    cffi = imported("cffi")
    if isinstance(cffi, str):
        return cffi
    ffi = cffi.FFI()
    ffi.cdef("int __tvm_ffi_add(void*, const void*, int32_t, void*);")

    def load(path: str) -> tuple[Any, Callable[..., Any]]:
        library = ffi.dlopen(path)
        return library, wrapped(int(ffi.cast("intptr_t", library.__tvm_ffi_add)))

    return Loader(load, "shared", lambda kept: ffi.dlclose(kept[0]))


def lljit() -> Loader | str:
    """Return llvmlite's LLJIT, its symbol made an FFI function."""
    llvm = imported("llvmlite.binding")
    if isinstance(llvm, str):
        return llvm
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    jit = llvm.create_lljit_compiler()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(jit))
    names = itertools.count()

    def load(path: str) -> tuple[Any, Callable[..., Any]]:
        builder = llvm.JITLibraryBuilder().add_object_file(path).add_current_process()
        builder.export_symbol("__tvm_ffi_add")
        library = builder.link(jit, f"library{next(names)}")
        # Never unloaded: the process would still run the destructors it registered, at exit.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))
        return library, wrapped(library["__tvm_ffi_add"])

    return Loader(load)


LOADERS: dict[str, Callable[[], Loader | str]] = {
    OURS: ours,
    DLOPEN: dlopen,
    PEER: orcjit,
    "llvmlite LLJIT": lljit,
    "ctypes": by_ctypes,
    "cffi": by_cffi,
}


def open_session(name: str) -> Callable[[], Any] | str:
    """Return what makes a new session of ours or of the peer."""
    package = imported(MODULES[name])
    if isinstance(package, str):
        return package
    maker: Callable[[], Any] = package.Session if name == OURS else package.ExecutionSession
    return maker


@dataclass(frozen=True)
class Case:
    """One kind of argument: the FFI function called with it, and the plain ones of the same shape.

    Parameters
    ----------
    function
        FFI function in ``calls.c``.
    plain
        C function in ``calls.c`` for ctypes and cffi; empty where C has no such argument.
    signature
        Its declaration for cffi.
    types
        ctypes' result and argument types.
    extension
        Function of the nanobind and Cython extensions; empty where they have none.
    """

    function: str
    plain: str = ""
    signature: str = ""
    types: tuple[Any, ...] = ()
    extension: str = ""


TOUCH = Case("touch")
CASES = {
    "int": Case(
        *("add", "add", "int64_t add(int64_t, int64_t);"),
        *((ctypes.c_int64, ctypes.c_int64, ctypes.c_int64), "add"),
    ),
    "float": Case(
        *("scale", "scale", "double scale(double, double);"),
        *((ctypes.c_double, ctypes.c_double, ctypes.c_double), "scale"),
    ),
    "bool": Case("flip", "flip", "_Bool flip(_Bool);", (ctypes.c_bool, ctypes.c_bool), "flip"),
    "none": Case("nothing", "nothing", "", (None, ctypes.c_void_p), "nothing"),
    "str": Case("touch", extension="first_char"),
    "bytes": Case(
        *("touch", "first_byte", "int64_t first_byte(const char*);"),
        *((ctypes.c_int64, ctypes.c_char_p), "first_byte"),
    ),
    "tensor": TOUCH,
    "object": TOUCH,
    "numpy": Case("touch", extension="array"),
    "torch": Case("touch", extension="array"),
}


def modules(obj: Path) -> dict[str, Any]:
    """Return the module of an object, by competitor, or why there is none."""
    return {
        OURS: ours_module(str(obj)),
        DLOPEN: tvm_ffi.load_module(str(objects.shared(obj))),
        PEER: orcjit_module(str(obj)),
    }


def callables(kind: str, release_gil: bool) -> dict[str, Callable[..., Any] | str]:
    """Return the functions to call with one kind of argument, by competitor.

    Parameters
    ----------
    kind
        A key of `CASES`.
    release_gil
        Whether the call gives the GIL up.

    Returns
    -------
    dict
        Name -> function, or why there is none.
    """
    case = CASES[kind]
    obj = objects.calls_object()
    library = str(objects.shared(obj))
    found: dict[str, Callable[..., Any] | str] = {}
    for name, module in modules(obj).items():
        if not isinstance(module, str):
            function = module.get_function(case.function)
            function.release_gil = release_gil
            module = function
        found[name] = module
    found["ctypes"] = ctypes_function(case, library, release_gil)
    found["cffi"] = cffi_function(case, library, release_gil)
    suffix = "" if release_gil else "_kept"
    for name, module_name, folder in (
        ("nanobind", "peer_nanobind", objects.nanobind_extension),
        ("Cython", "peer_cython", objects.cython_extension),
    ):
        found[name] = (
            extension_function(module_name, folder, case.extension + suffix)
            if case.extension
            else "no such argument type"
        )
    return found


def ours_module(path: str) -> Any:
    """Load an object with this package's default session."""
    package = imported(MODULES[OURS])
    return package if isinstance(package, str) else package.default_session().load(path)


def orcjit_module(path: str) -> Any:
    """Load an object with the peer's default session."""
    package = imported(MODULES[PEER])
    return package if isinstance(package, str) else package.default_session().load_module(path)


def ctypes_function(case: Case, library: str, release_gil: bool) -> Callable[..., Any] | str:
    """Return the plain C function through ctypes."""
    if not case.plain:
        return "no such argument type"
    opened = ctypes.CDLL(library) if release_gil else ctypes.PyDLL(library)
    function = opened[case.plain]
    function.restype, *function.argtypes = case.types
    return function


def cffi_function(case: Case, library: str, release_gil: bool) -> Callable[..., Any] | str:
    """Return the plain C function through cffi in ABI mode."""
    cffi = imported("cffi")
    if isinstance(cffi, str):
        return cffi
    if not case.signature:
        return "no such argument type"
    if not release_gil:
        return "always releases the GIL"
    ffi = cffi.FFI()
    ffi.cdef(case.signature)
    function: Callable[..., Any] = getattr(ffi.dlopen(library), case.plain)
    return function


def extension_function(
    module: str, folder: Callable[[], Path], name: str
) -> Callable[..., Any] | str:
    """Return a function of a compiled extension module."""
    try:
        path = str(folder())
    except ImportError:
        return "not installed"
    if path not in sys.path:
        sys.path.append(path)
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
