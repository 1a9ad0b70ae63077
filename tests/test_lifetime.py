# SPDX-License-Identifier: Apache-2.0
"""What keeps code loaded, what unloads it, and what a held function does after `close`."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace

TRACED = """
#include "safe_call.h"
#include "trace.h"
static int64_t value = 40;
__attribute__((constructor)) static void init(void) { trace(EVENT); }
__attribute__((destructor)) static void fini(void) { trace(-EVENT); value = 0; }
int64_t add_value(int64_t n) { return value + n; }
EXPORT(add_value) { RETURN(add_value(INT(0))); }
"""
USER = """
#include "safe_call.h"
#include "trace.h"
int64_t add_value(int64_t n);
__attribute__((destructor)) static void fini(void) { trace(-add_value(160)); }
EXPORT(use) { RETURN(2 * add_value(INT(0))); }
"""


@pytest.fixture
def traced(compile: Compiler) -> Path:
    return compile(TRACED, "-O2", "-fPIC", "-DEVENT=1", name="traced")


def sizes(session: tol.Session) -> dict[str, int]:
    stats = session.stats()
    return {key: stats[key] for key in ("dylibs", "objects", "symbols", "bytes_code", "bytes_data")}


def test_dropping_the_last_reference_unloads(
    session: tol.Session, traced: Path, trace: Trace
) -> None:
    empty = sizes(session)
    dylib = session.load(traced)
    assert trace.take() == [1]
    assert sizes(session) != empty
    del dylib
    assert trace.take() == [-1]
    assert sizes(session) == empty
    assert session.dylibs == {}


def test_a_function_keeps_its_code_loaded(session: tol.Session, traced: Path, trace: Trace) -> None:
    function = session.load(traced)["add_value"]
    gc.collect()
    assert trace.take() == [1]
    assert function(2) == 42
    del function
    assert trace.take() == [-1]


def test_a_module_keeps_its_code_loaded(session: tol.Session, traced: Path, trace: Trace) -> None:
    module = session.load(traced).module
    gc.collect()
    assert trace.take() == [1]
    assert module.add_value(2) == 42
    del module
    gc.collect()
    assert trace.take() == [-1]


def test_a_function_of_a_module_keeps_its_code_loaded(
    session: tol.Session, traced: Path, trace: Trace
) -> None:
    function = session.load_module(traced).get_function("add_value")
    gc.collect()
    assert trace.take() == [1]
    assert function(2) == 42
    del function
    assert trace.take() == [-1]


def test_a_function_held_by_a_container_keeps_its_code_loaded(
    session: tol.Session, traced: Path, trace: Trace
) -> None:
    held = tvm_ffi.Array([session.load(traced)["add_value"]])
    gc.collect()
    assert trace.take() == [1]
    assert held[0](2) == 42
    del held
    gc.collect()
    assert trace.take() == [-1]


def test_a_module_that_imports_another_keeps_it_loaded(
    session: tol.Session, traced: Path, add_object: Path, trace: Trace
) -> None:
    module = session.load_module(add_object)
    module.import_module(session.load_module(traced))
    gc.collect()
    assert trace.take() == [1]
    assert module.get_function("add_value", query_imports=True)(2) == 42
    module.clear_imports()
    gc.collect()
    assert trace.take() == [-1]


def test_the_link_order_keeps_a_dylib_loaded(
    session: tol.Session, traced: Path, compile: Compiler, trace: Trace
) -> None:
    base = session.load(traced, name="base")
    app = session.load(compile(USER, name="user"), name="app", link_order=[base])
    del base
    gc.collect()
    assert trace.take() == [1]
    assert app["use"](2) == 84
    assert [dylib.name for dylib in app.link_order] == ["base"]
    assert sorted(session.dylibs) == ["app", "base"]
    del app
    # The user's destructor still finds the other's code and data: 160 + 40.
    assert trace.take() == [-200, -1]
    assert session.dylibs == {}


def test_a_dropped_session_does_not_unload_what_is_held(traced: Path, trace: Trace) -> None:
    function = tol.Session().load(traced)["add_value"]
    gc.collect()
    assert function(2) == 42
    assert trace.take() == [1]
    del function
    assert trace.take() == [-1]


def test_dropping_everything_frees_the_session(traced: Path, trace: Trace) -> None:
    session = tol.Session()
    dylib = session.load(traced)
    session_reference = weakref.ref(session)
    del dylib, session
    gc.collect()
    assert session_reference() is None
    assert trace.take() == [1, -1]


def test_an_object_loader_that_is_dropped_unloads(traced: Path, trace: Trace) -> None:
    loader = tol.ObjectLoader().load(traced)
    function = loader["add_value"]
    del loader
    gc.collect()
    assert function(2) == 42
    assert trace.take() == [1]
    del function
    assert trace.take() == [-1]


def test_a_module_of_the_default_session_unloads(traced: Path, trace: Trace) -> None:
    module = tol.load_module(traced)
    assert module.add_value(2) == 42
    del module
    gc.collect()
    assert trace.take() == [1, -1]


def test_closing_a_dylib_unloads_it_and_nothing_else(
    session: tol.Session, traced: Path, compile: Compiler, trace: Trace
) -> None:
    before = sizes(session)
    other = session.load(compile(TRACED, "-O2", "-fPIC", "-DEVENT=2"))
    kept = sizes(session)
    dylib = session.load(traced)
    function = dylib["add_value"]
    assert trace.take() == [2, 1]
    dylib.close()
    assert trace.take() == [-1]
    assert dylib.closed
    assert not session.closed
    assert sizes(session) == kept != before
    assert other["add_value"](2) == 42
    with pytest.raises(tol.SessionClosedError):
        function(2)
    del dylib, function
    gc.collect()
    assert trace.take() == []


def test_closing_twice_is_fine(session: tol.Session, traced: Path, trace: Trace) -> None:
    dylib = session.load(traced)
    dylib.close()
    dylib.close()
    session.close()
    session.close()
    assert trace.take() == [1, -1]


def test_leaving_the_with_block_unloads(traced: Path, trace: Trace) -> None:
    with tol.Session() as session:
        function = session.load(traced)["add_value"]
        assert function(2) == 42
    assert session.closed
    assert trace.take() == [1, -1]
    with pytest.raises(tol.SessionClosedError):
        function(2)
    with tol.ObjectLoader() as loader:
        assert loader.load(traced)["add_value"](2) == 42
    assert loader.closed
    assert trace.take() == [1, -1]


def test_a_with_block_left_by_an_error_unloads(traced: Path, trace: Trace) -> None:
    def leave_by_an_error() -> None:
        with tol.Session() as session:
            session.load(traced)
            raise KeyError("from the block")

    with pytest.raises(KeyError):
        leave_by_an_error()
    assert trace.take() == [1, -1]


def test_closing_a_session_unloads_users_before_what_they_use(
    session: tol.Session, traced: Path, compile: Compiler, trace: Trace
) -> None:
    base = session.load(traced)
    app = session.load(compile(USER, name="user"), link_order=[base])
    session.close()
    assert trace.take() == [1, -200, -1]
    assert base.closed
    assert app.closed


def test_everything_of_a_closed_session_says_so(session: tol.Session, traced: Path) -> None:
    dylib = session.load(traced, name="held")
    module, loader = dylib.module, tol.ObjectLoader(session=session)
    session.close()
    uses: list[Callable[[], object]] = [
        lambda: session.create_dylib("x"),
        lambda: session.load(traced),
        lambda: session.load_module(traced),
        lambda: dylib.load(traced),
        lambda: dylib.get_function("add_value"),
        lambda: dylib["add_value"],
        lambda: dylib.lookup("add_value"),
        lambda: dylib.functions,
        lambda: dylib.module,
        lambda: loader.load(traced),
        lambda: module.get_function("add_value"),
        lambda: tol.ObjectLoader(session=session),
    ]
    for use in uses:
        with pytest.raises(tol.SessionClosedError):
            use()
    assert dylib.name == "held"
    assert dylib.session is session


def test_a_closed_dylib_cannot_be_linked_to(session: tol.Session, traced: Path) -> None:
    base = session.load(traced)
    base.close()
    with pytest.raises(tol.SessionClosedError):
        session.create_dylib("app", link_order=[base])


def test_a_function_called_after_close_raises_in_every_way_of_calling_it(
    session: tol.Session, traced: Path, compile: Compiler
) -> None:
    rich = compile.dlopen(
        compile("rich.cc", "-O2", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")
    )
    dylib = session.load(traced, name="the_dylib")
    ours, modules = dylib["add_value"], dylib.module.get_function("add_value")
    assert rich.apply(ours, 2) == rich.apply(modules, 2) == 42
    dylib.close()
    for function in (ours, modules):
        with pytest.raises(tol.SessionClosedError, match="the_dylib"):
            function(2)
        with pytest.raises(tol.SessionClosedError, match="the_dylib"):
            rich.apply(function, 2)
        assert rich.kind_of_error(function, 2) == "SessionClosedError"
        with pytest.raises(tol.SessionClosedError):
            tvm_ffi.convert(function)(2)


def test_a_name_is_free_again_after_close_or_drop(session: tol.Session, traced: Path) -> None:
    first = session.load(traced, name="impl")
    first.close()
    second = session.load(traced, name="impl")
    assert second is not first
    assert session["impl"] is second
    assert session["impl"]["add_value"](2) == 42
    del second
    gc.collect()
    assert session.load(traced, name="impl")["add_value"](2) == 42
    assert first.closed


CLOSE_BASE = """
import sys
import tvm_ffi_object_loader as tol

session = tol.Session()
base = session.load(sys.argv[1])
app = session.load(sys.argv[2], link_order=[base])
held = base["add_value"]
base.close()
try:
    held(2)
except tol.SessionClosedError:
    pass
else:
    raise AssertionError("a function of the closed dylib was called")
try:
    assert app["use"](2) == 84
except tol.ObjectLoaderError:
    pass
session.close()
print("alive")
"""


def test_closing_what_another_dylib_uses_never_crashes(
    traced: Path, compile: Compiler, run_script: RunScript
) -> None:
    assert run_script(CLOSE_BASE, traced, compile(USER, name="user")) == "alive\n"


def test_unloaded_memory_is_unmapped_or_reused(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    static char zeros[8 << 20];
    EXPORT(fill) { for (int64_t i = 0; i < (8 << 20); ++i) zeros[i] = 1; RETURN(zeros[5]); }
    """
    big = compile(source)
    for _ in range(3):
        assert session.load(big)["fill"]() == 1
    reserved, resident = session.stats()["bytes_reserved"], resident_bytes()
    for _ in range(20):
        assert session.load(big)["fill"]() == 1
    assert session.stats()["bytes_reserved"] == reserved
    assert resident_bytes() < resident + (8 << 20)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


AT_EXIT = """
import sys
import tvm_ffi_object_loader as tol

function = tol.load_module(sys.argv[1]).get_function("add_value")
held = tol.Session().load(sys.argv[1])["add_value"]
kept = [tol.default_session().load(sys.argv[1]), tol.ObjectLoader().load(sys.argv[1])]
kept.append(kept)
print(function(2), held(2))
"""


def test_a_process_ends_cleanly_with_functions_held(traced: Path, run_script: RunScript) -> None:
    assert run_script(AT_EXIT, traced) == "42 42\n"


def test_an_address_is_not_a_reference(session: tol.Session, traced: Path, trace: Trace) -> None:
    address = session.load(traced).lookup("add_value")
    gc.collect()
    assert isinstance(ctypes.c_void_p(address).value, int)
    assert trace.take() == [1, -1]
