# SPDX-License-Identifier: Apache-2.0
"""`Dylib.reload`: what was handed out calls the new code; if it fails, nothing has changed."""

from __future__ import annotations

import ctypes
import gc
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import Trace
from embedded_modules import library_bin
from reloading import version
from traced import sizes

if TYPE_CHECKING:
    from tvm_ffi_object_loader.arguments import Objects

USER = """
#include "safe_call.h"
int64_t number(void);
EXPORT(use) { RETURN(number()); }
"""


def test_functions_and_modules_call_the_new_code(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(version(compile, 1), name="kernels")
    function, module = dylib["number"], dylib.module
    of_module = module.number
    plain = module.get_function("number")
    held = tvm_ffi.Array([function])
    assert dylib.reload(version(compile, 2)) is dylib
    assert [f() for f in (function, of_module, plain, held[0])] == [2] * 4
    assert (dylib["number"](), dylib.module.number(), module.number()) == (2, 2, 2)
    assert session["kernels"] is dylib
    assert session.dylibs == {"kernels": dylib}
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(dylib.lookup("number"))() == 2


def test_a_function_is_the_same_when_others_call_it(
    session: tol.Session, compile: Compiler
) -> None:
    caller = session.load(version(compile, 7))["call"]
    dylib = session.load(version(compile, 1))
    number = dylib["number"]
    assert caller(number) == 71
    dylib.reload(version(compile, 2))
    assert caller(number) == 72
    assert tvm_ffi.convert(number)() == 2


def test_constructors_and_destructors_run(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    dylib = session.load(version(compile, 1))
    before = sizes(session)
    dylib.reload(version(compile, 2))
    assert trace.take() == [1, 2, -1]
    dylib.reload(version(compile, 3))
    assert trace.take() == [3, -2]
    dylib.reload(version(compile, 1))
    assert trace.take() == [1, -3]
    assert sizes(session) == before
    del dylib
    assert trace.take() == [-1]
    assert sizes(session)["objects"] == 0


def test_every_load_of_the_version_before_is_replaced(
    session: tol.Session, compile: Compiler, add_object: Path, trace: Trace
) -> None:
    dylib = session.load(version(compile, 1)).load(add_object)
    add = dylib["add"]
    dylib.reload(version(compile, 2))
    assert "add" not in dylib
    assert dylib.stats().objects == 1
    dylib.load(add_object)
    assert (add(1, 2), dylib["number"]()) == (3, 2)


def test_a_function_that_is_gone(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(version(compile, 1), name="kernels")
    gone = dylib["first_only"]
    dylib.reload(version(compile, 2))
    for _ in range(2):
        with pytest.raises(tol.FunctionNotFoundError, match=r"'kernels' has no function 'first_on"):
            gone()
    caller = session.load(version(compile, 7))["call"]
    with pytest.raises(tol.FunctionNotFoundError, match="first_only"):
        caller(gone)
    with pytest.raises(AttributeError):
        _ = dylib.module.first_only
    dylib.reload(version(compile, 1))
    assert gone() == 1
    dylib.close()
    with pytest.raises(tol.SessionClosedError):
        gone()


@pytest.mark.parametrize("kind", ["format", "undefined", "duplicate", "initializer", "missing"])
def test_a_reload_that_fails_changes_nothing(
    session: tol.Session, compile: Compiler, trace: Trace, tmp_path: Path, kind: str
) -> None:
    dylib = session.load(version(compile, 1), name="kernels")
    function = dylib["number"]
    trace.take()
    before = sizes(session), dylib.functions, dylib.lookup("number")
    two = version(compile, 2)
    undefined = compile("int missing(void);\nint use(void) { return missing(); }")
    throws = compile.cxx("static int init() { throw 1; }\nint i = init();\n", "-fPIC")
    cases: dict[str, tuple[Objects, type[Exception], list[int]]] = {
        "format": ([b"\x7fELF, or not"], tol.ObjectFormatError, []),
        "undefined": ([two, undefined], tol.UndefinedSymbolError, []),
        "duplicate": ([two, version(compile, 3)], tol.DuplicateSymbolError, []),
        "initializer": ([two, throws], tol.LinkError, [2]),  # as a load that fails
        "missing": ([tmp_path / "no.o"], FileNotFoundError, []),
    }
    given, error, events = cases[kind]
    with pytest.raises(error):
        dylib.reload(given)
    assert trace.take() == events
    assert (sizes(session), dylib.functions, dylib.lookup("number")) == before
    assert function() == 1
    assert session["kernels"] is dylib
    dylib.reload(two)
    assert function() == 2
    assert trace.take() == [2, -1]


def test_a_loader_reloads(compile: Compiler) -> None:
    with tol.ObjectLoader() as loader:
        number = loader.load(version(compile, 1)).get_function("number")
        assert loader.reload(version(compile, 2)) is loader
        assert number() == loader["number"]() == 2


def test_arguments_are_checked(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(version(compile, 1))
    wrongs: list[dict[str, Any]] = [
        {"dependents": 1},
        {"whole_archive": None},
        {"keep_data": "x"},
    ]
    for wrong in wrongs:
        with pytest.raises(TypeError, match=next(iter(wrong))):
            dylib.reload(version(compile, 2), **wrong)
    with pytest.raises(TypeError, match=r"keep_data\[1\]"):
        dylib.reload(version(compile, 2), keep_data=["x", 1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="objects"):
        dylib.reload([])
    assert dylib["number"]() == 1


def test_what_is_closed_is_not_reloaded(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(version(compile, 1))
    dylib.close()
    with pytest.raises(tol.SessionClosedError):
        dylib.reload(version(compile, 2))
    assert dylib.closed
    assert sizes(session)["objects"] == 0


def test_a_name_that_another_dylib_got_stays_there(session: tol.Session, compile: Compiler) -> None:
    old = session.load(version(compile, 1), name="kernels")
    new = session.load(version(compile, 2), name="kernels", replace=True)
    old.reload(version(compile, 3))
    assert session["kernels"] is new
    assert (old["number"](), new["number"]()) == (3, 2)


def test_what_is_linked_against_it_goes_on_with_the_old_code(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    user = compile(USER)
    base = session.load(version(compile, 1), name="base")
    app = session.load(user, name="app", link_order=[base])
    use = app["use"]
    base.reload(version(compile, 2))
    assert trace.take() == [1, 2]
    assert (use(), base["number"]()) == (1, 2)
    assert app.link_order == [base]
    assert [dylib.held_by.dylibs for dylib in session.stats().retained_dylibs] == [1]
    app.reload(user)
    assert use() == 2
    assert trace.take() == [-1]
    assert session.load(user, link_order=[base])["use"]() == 2


def test_objects_that_the_old_code_made_keep_it(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    makes = """
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>
extern "C" int64_t number(void);
static tvm::ffi::Function make() {
  return tvm::ffi::Function::FromTyped([](int64_t n) { return n + number(); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(make, make);
"""
    maker = compile.cxx(makes, "-O1", "-fPIC")
    dylib = session.load([version(compile, 1), maker])
    made = dylib["make"]()
    dylib.reload([version(compile, 2), maker])
    assert (made(10), dylib["make"]()(10)) == (11, 12)
    assert trace.take() == [1, 2]
    del made
    gc.collect()
    assert trace.take() == [-1]


def test_signatures_and_documentation_follow(session: tol.Session, compile: Compiler) -> None:
    source = """
#include <tvm/ffi/function.h>
int64_t scale(int64_t n) { return NUMBER * n; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(scale, scale);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(scale, DOC);
"""
    flags = ("-O1", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")
    first, second = (
        compile.cxx(source, *flags, f"-DNUMBER={n}", f'-DDOC="scale({name})\\n\\nTimes {n}."')
        for n, name in ((1, "n"), (2, "by"))
    )
    dylib = session.load(first)
    scale: Any = dylib["scale"]
    assert scale.__doc__.splitlines()[-1] == "Times 1."
    assert scale(n=21) == 21
    dylib.reload(second)
    assert list(inspect.signature(scale).parameters) == ["by"]
    assert scale.__doc__.splitlines()[-1] == "Times 2."
    assert scale(by=21) == 42


def test_it_may_be_called_by_the_code_that_it_replaces(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    dylib = session.load(version(compile, 1))
    seen: list[object] = []

    def reload() -> int:
        dylib.reload(version(compile, 2))
        seen.append((trace.take(), dylib["number"]()))
        return 5

    call = dylib["call"]
    assert call(tvm_ffi.convert(reload)) == 15
    assert seen == [([1, 2], 2)]
    assert trace.take() == [-1]  # when the call has returned
    assert call(tvm_ffi.convert(lambda: 5)) == 25


def test_an_initializer_cannot_reload_its_own_dylib(
    session: tol.Session, compile: Compiler
) -> None:
    errors: list[BaseException] = []
    dylib = session.load(version(compile, 1))

    def reload() -> None:
        try:
            dylib.reload(version(compile, 2))
        except tol.ObjectLoaderError as error:
            errors.append(error)

    tvm_ffi.register_global_func("test.reload_within", reload)
    calls = """
#include <tvm/ffi/function.h>
static int init() { tvm::ffi::Function::GetGlobalRequired("test.reload_within")(); return 1; }
int i = init();
"""
    try:
        dylib.load(compile.cxx(calls, "-fPIC"))
    finally:
        tvm_ffi.registry.remove_global_func("test.reload_within")
    assert "from within its own initializers" in str(errors[0])
    assert dylib["number"]() == 1


def test_embedded_modules_are_replaced(session: tol.Session, compile: Compiler) -> None:
    loaded: list[bytes] = []

    def load(content: bytes) -> tvm_ffi.Module:
        loaded.append(bytes(content))
        return tvm_ffi.load_module(str(version(compile, 8)))

    tvm_ffi.register_global_func("ffi.Module.load_from_bytes.test_reload", load)
    try:
        one, two = (
            compile(library_bin([[1], []], [("_lib", None), ("test_reload", text)]))
            for text in (b"first", b"second")
        )
        dylib = session.load([version(compile, 1), one])
        module = dylib.module
        own = session.load_module(version(compile, 9))
        module.import_module(own)
        assert len(module.imports) == 2
        dylib.reload([version(compile, 2), two])
        assert loaded == [b"first", b"second"]
        imports = dylib.module.imports
        assert len(imports) == 2
        assert own in list(imports)
        with pytest.raises(tol.LinkError):
            dylib.reload([version(compile, 2), two], keep_data=["absent"])
        assert list(module.imports) == list(imports)
        dylib.reload(version(compile, 1))
        assert list(dylib.module.imports) == [own]
    finally:
        tvm_ffi.registry.remove_global_func("ffi.Module.load_from_bytes.test_reload")


def test_it_is_logged(
    session: tol.Session, compile: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    dylib = session.load(version(compile, 1), name="kernels")
    with caplog.at_level(logging.DEBUG, "tvm_ffi_object_loader"):
        dylib.reload(version(compile, 2))
        with pytest.raises(tol.ObjectFormatError):
            dylib.reload(b"no object")
    done, failed = (record.getMessage() for record in caplog.records)
    assert done.startswith("reloaded ")
    assert "in dylib 'kernels'" in done
    assert failed.startswith("failed to reload <bytes> in dylib 'kernels'")


def test_loads_and_failures_are_counted(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(version(compile, 1))
    dylib.reload(version(compile, 2))
    with pytest.raises(tol.ObjectFormatError):
        dylib.reload(b"no object")
    stats = dylib.stats()
    assert (stats.loads, stats.failures, stats.objects) == (2, 1, 1)
    assert session.stats().retained == 0
