# SPDX-License-Identifier: Apache-2.0
"""Embedded imports, the library context and context symbols, as in the dlopened module."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from embedded_modules import IMPORTED, USES_IMPORTS, library_bin


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


def test_imports_are_rebuilt(session: tol.Session, compile: Compiler, factor_kind: str) -> None:
    blob = library_bin(
        [[1, 2], [], []], [("_lib", None), *((factor_kind, text) for text in (b"10", b"100"))]
    )
    for module in both(session, compile, USES_IMPORTS + blob):
        assert len(module.imports) == 2
        assert [m.kind for m in module.imports] == ["library", "library"]
        assert module.call_import(3) == 30
        assert module.get_function("factor_100", query_imports=True)() == 100
        assert module.implements_function("factor_10", query_imports=True)
        with pytest.raises(AttributeError):
            module.get_function("factor_10")


def test_a_library_that_is_not_the_root(
    session: tol.Session, compile: Compiler, factor_kind: str
) -> None:
    blob = library_bin([[1], [2], []], [(factor_kind, b"7"), ("_lib", None), (factor_kind, b"70")])
    for module in both(session, compile, USES_IMPORTS + blob):
        assert module.factor_7() == 7
        (library,) = module.imports
        assert library.get_function("call_import")(2) == 140
        assert [m.get_function("factor_70")() for m in library.imports] == [70]


@pytest.fixture
def made(compile: Compiler) -> Iterator[list[tvm_ffi.Module]]:
    """Register a kind of module, ``test_counted``; return those that were made."""
    made: list[tvm_ffi.Module] = []

    def load(content: bytes) -> tvm_ffi.Module:
        flags = ("-DFACTOR=3", f"-DNAME=made_{len(made)}")
        made.append(compile.dlopen(compile(IMPORTED, *flags)))
        return made[-1]

    name = "ffi.Module.load_from_bytes.test_counted"
    tvm_ffi.register_global_func(name, load, override=True)
    yield made
    tvm_ffi.remove_global_func(name)


TREES = [
    ([[1], []], [("_lib", None), ("test_counted", b"x")]),
    ([[1], []], [("test_counted", b"x"), ("_lib", None)]),
]


@pytest.mark.parametrize("tree", TREES, ids=["the library is the root", "another is"])
def test_parts_are_made_once_a_load(
    session: tol.Session,
    compile: Compiler,
    made: list[tvm_ffi.Module],
    tree: tuple[list[list[int]], list[tuple[str, bytes | None]]],
) -> None:
    obj = compile(USES_IMPORTS + library_bin(*tree))
    dylib = session.load(obj)
    first = dylib.module
    assert first.same_as(dylib.module)
    del first
    second = dylib.module
    assert second.same_as(dylib.module)
    assert len(made) == 1
    module = session.load_module(obj)
    assert len(module.imports) == 1
    assert len(made) == 2


def test_a_root_that_nobody_holds_is_made_again(
    session: tol.Session, compile: Compiler, made: list[tvm_ffi.Module]
) -> None:
    function = session.load(compile(USES_IMPORTS + library_bin(*TREES[1])), name="d")["context"]
    made.clear()
    assert len(session["d"].module.imports) == 1
    assert function() == 1
    assert len(made) == 1


KEEPS_BYTES = """
#include "safe_call.h"
static TVMFFIObjectHandle kept, maker;
EXPORT(set_maker) { maker = args[0].v_obj; TVMFFIObjectIncRef(maker); RETURN(0); }
EXPORT(load) {
  if (kept) TVMFFIObjectDecRef(kept);
  kept = args[0].v_obj;
  TVMFFIObjectIncRef(kept);
  return TVMFFIFunctionCall(maker, 0, 0, ret);
}
static TVMFFIByteArray* bytes(void) { return (TVMFFIByteArray*)((char*)kept + 24); }
EXPORT(address) { RETURN((intptr_t)bytes()->data); }
EXPORT(size) { RETURN(bytes()->size); }
EXPORT(last) { RETURN(bytes()->data[bytes()->size - 1]); }
EXPORT(forget) { TVMFFIObjectDecRef(kept); kept = 0; RETURN(0); }
"""


@pytest.fixture
def keeper(compile: Compiler) -> Iterator[tvm_ffi.Module]:
    """Register a kind of module, ``test_kept``, whose loader keeps the bytes it was last given."""
    keeper = compile.dlopen(compile(KEEPS_BYTES))
    part = compile.dlopen(compile(IMPORTED, "-DFACTOR=2", "-DNAME=part"))
    keeper.set_maker(tvm_ffi.convert(lambda: part))
    name = "ffi.Module.load_from_bytes.test_kept"
    tvm_ffi.register_global_func(name, keeper.get_function("load"), override=True)
    yield keeper
    tvm_ffi.remove_global_func(name)


@pytest.mark.parametrize("size", [3, 300_000])
def test_bytes_of_a_part_are_those_that_were_loaded(
    session: tol.Session, compile: Compiler, keeper: tvm_ffi.Module, size: int
) -> None:
    content = bytes(size - 1) + b"z"
    obj = compile(library_bin([[1], []], [("_lib", None), ("test_kept", content)]))
    dylib = session.load(obj)
    start = dylib.lookup("__tvm_ffi__library_bin")
    assert start < keeper.address() < start + size + 100
    assert keeper.size() == size
    before = session.stats()
    dylib.close()
    assert session.stats().retained == 1
    assert session.stats().bytes_constants == before.bytes_constants
    assert keeper.last() == ord("z")
    keeper.forget()
    assert session.stats().retained == session.stats().bytes_constants == 0


def test_bytes_of_a_part_outlive_a_load_that_fails(
    session: tol.Session, compile: Compiler, keeper: tvm_ffi.Module
) -> None:
    parts: list[tuple[str, bytes | None]]
    parts = [("_lib", None), ("test_kept", b"kept"), ("unheard_of", b"x")]
    dylib = session.create_dylib()
    obj = compile(USES_IMPORTS + library_bin([[1, 2], [], []], parts))
    with pytest.raises(RuntimeError, match="unheard_of"):
        dylib.load(obj)
    assert keeper.last() == ord("t")
    keeper.forget()
    before = session.stats()
    # Where nobody keeps the bytes, nothing is left of a load that fails.
    parts[1] = ("unheard_of", b"kept")
    for _ in range(3):
        with pytest.raises(RuntimeError, match="unheard_of"):
            dylib.load(compile(USES_IMPORTS + library_bin([[1, 2], [], []], parts)))
    assert session.stats() == before
    dylib.close()
    assert session.stats().bytes_constants == session.stats().retained == 0


def test_an_unknown_kind_of_import_names_its_loader(
    session: tol.Session, compile: Compiler
) -> None:
    blob = library_bin([[1], []], [("_lib", None), ("unheard_of", b"x")])
    path = compile(USES_IMPORTS + blob)
    for load in (compile.dlopen, session.load_module):
        with pytest.raises(RuntimeError, match=r"ffi\.Module\.load_from_bytes\.unheard_of"):
            load(path)


def test_imports_that_are_wrong_leave_none(
    session: tol.Session, compile: Compiler, factor_kind: str
) -> None:
    blob = library_bin([[1, 7], []], [("_lib", None), (factor_kind, b"10")])
    dylib = session.create_dylib()
    with pytest.raises(RuntimeError, match="names a module that it does not hold"):
        dylib.load(compile(USES_IMPORTS + blob))
    assert list(dylib.module.imports) == []
    dylib.load(compile(USES_IMPORTS))
    with pytest.raises(RuntimeError, match="imported"):
        dylib["call_import"](3)


def test_imports_can_be_added(session: tol.Session, compile: Compiler, factor_kind: str) -> None:
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
