# SPDX-License-Identifier: Apache-2.0
"""Embedded imports, the library context and context symbols, as in the dlopened module."""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Iterator

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler


def library_bin(tree: list[list[int]], modules: list[tuple[str, bytes | None]]) -> str:
    """Return C source that defines ``__tvm_ffi__library_bin``.

    `tree` lists the imports of each module by index; the content of ``_lib``, which stands for the
    library itself, is None.
    """

    def vector(values: list[int]) -> bytes:
        return struct.pack(f"<Q{len(values)}Q", len(values), *values)

    def string(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    ends = [0, *itertools.accumulate(len(children) for children in tree)]
    blob = vector(ends) + vector([child for children in tree for child in children])
    for kind, content in modules:
        blob += string(kind.encode()) + (b"" if content is None else string(content))
    data = ",".join(str(byte) for byte in struct.pack("<Q", len(blob)) + blob)
    return f"const unsigned char __tvm_ffi__library_bin[] = {{{data}}};\n"


USES_IMPORTS = """
#include "safe_call.h"
#include <tvm/ffi/extra/c_env_api.h>
void* __tvm_ffi__library_ctx = 0;
EXPORT(context) { RETURN(__tvm_ffi__library_ctx != 0); }
EXPORT(call_import) {
  TVMFFIObjectHandle function;
  if (TVMFFIEnvModLookupFromImports(__tvm_ffi__library_ctx, "imported", &function)) return -1;
  TVMFFIAny call_args[1] = {args[0]};
  return TVMFFIFunctionCall(function, call_args, 1, ret);
}
"""
IMPORTED = """
#include "safe_call.h"
EXPORT(imported) { RETURN(FACTOR * INT(0)); }
EXPORT(NAME) { RETURN(FACTOR); }
"""


@pytest.fixture
def kind(compile: Compiler) -> Iterator[str]:
    """Register a kind of module whose content is a factor; return the kind."""

    def load(content: bytes) -> tvm_ffi.Module:
        factor = int(bytes(content))
        flags = ("-O1", "-fPIC", f"-DFACTOR={factor}", f"-DNAME=factor_{factor}")
        return compile.dlopen(compile(IMPORTED, *flags))

    name = "ffi.Module.load_from_bytes.test_factor"
    tvm_ffi.register_global_func(name, load, override=True)
    yield "test_factor"
    tvm_ffi.remove_global_func(name)


def both(session: tol.Session, compile: Compiler, source: str) -> list[tvm_ffi.Module]:
    path = compile(source)
    return [session.load_module(path), compile.dlopen(path)]


def test_the_library_context(session: tol.Session, compile: Compiler) -> None:
    for module in both(session, compile, USES_IMPORTS):
        assert module.context() == 1
        with pytest.raises(RuntimeError, match="imported"):
            module.call_import(3)


def test_the_library_context_finds_global_functions(
    session: tol.Session, compile: Compiler
) -> None:
    tvm_ffi.register_global_func("imported", lambda n: n + 0.5, override=True)
    try:
        for module in both(session, compile, USES_IMPORTS):
            assert module.call_import(3) == 3.5
    finally:
        tvm_ffi.remove_global_func("imported")


def test_imports_are_rebuilt(session: tol.Session, compile: Compiler, kind: str) -> None:
    blob = library_bin([[1, 2], [], []], [("_lib", None), (kind, b"10"), (kind, b"100")])
    for module in both(session, compile, USES_IMPORTS + blob):
        assert len(module.imports) == 2
        assert [m.kind for m in module.imports] == ["library", "library"]
        assert module.call_import(3) == 30
        assert module.get_function("factor_100", query_imports=True)() == 100
        assert module.implements_function("factor_10", query_imports=True)
        with pytest.raises(AttributeError):
            module.get_function("factor_10")


def test_a_library_that_is_not_the_root(session: tol.Session, compile: Compiler, kind: str) -> None:
    blob = library_bin([[1], [2], []], [(kind, b"7"), ("_lib", None), (kind, b"70")])
    for module in both(session, compile, USES_IMPORTS + blob):
        assert module.factor_7() == 7
        (library,) = module.imports
        assert library.get_function("call_import")(2) == 140
        assert [m.get_function("factor_70")() for m in library.imports] == [70]


def test_an_unknown_kind_of_import_names_its_loader(
    session: tol.Session, compile: Compiler
) -> None:
    blob = library_bin([[1], []], [("_lib", None), ("unheard_of", b"x")])
    path = compile(USES_IMPORTS + blob)
    for load in (compile.dlopen, session.load_module):
        with pytest.raises(RuntimeError, match=r"ffi\.Module\.load_from_bytes\.unheard_of"):
            load(path)


def test_imports_that_are_wrong_leave_none(
    session: tol.Session, compile: Compiler, kind: str
) -> None:
    blob = library_bin([[1, 7], []], [("_lib", None), (kind, b"10")])
    dylib = session.create_dylib()
    with pytest.raises(RuntimeError, match="names a module that it does not hold"):
        dylib.load(compile(USES_IMPORTS + blob))
    assert list(dylib.module.imports) == []
    dylib.load(compile(USES_IMPORTS))
    with pytest.raises(RuntimeError, match="imported"):
        dylib["call_import"](3)


def test_imports_can_be_added(session: tol.Session, compile: Compiler, kind: str) -> None:
    module, dlopened = both(session, compile, USES_IMPORTS)
    other = session.load_module(compile(IMPORTED, "-DFACTOR=2", "-DNAME=two"))
    for importing in (module, dlopened):
        importing.import_module(other)
        assert importing.call_import(21) == 42
        importing.clear_imports()
        assert list(importing.imports) == []


def test_context_symbols_are_set(session: tol.Session, compile: Compiler) -> None:
    target = ctypes.c_int64(4711)
    register = tvm_ffi.LIB.TVMFFIEnvModRegisterContextSymbol
    register.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    for name in (b"__test_context_symbol", b"__test_context_symbol_that_nobody_has"):
        assert register(name, ctypes.addressof(target)) == 0
    KEPT.append(target)  # there is no way to unregister it
    source = """
    #include "safe_call.h"
    int64_t* __test_context_symbol = 0;
    EXPORT(read_context) { RETURN(__test_context_symbol ? *__test_context_symbol : -1); }
    """
    for module in both(session, compile, source):
        assert module.read_context() == 4711


KEPT: list[object] = []
