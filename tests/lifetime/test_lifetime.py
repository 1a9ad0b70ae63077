# SPDX-License-Identifier: Apache-2.0
"""What keeps code loaded, and that dropping the last reference unloads it."""

from __future__ import annotations

import ctypes
import gc
import os
import weakref
from pathlib import Path

import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from traced import USER, sizes


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
    assert [entry.name for entry in app.link_order if isinstance(entry, tol.Dylib)] == ["base"]
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


def test_unloaded_memory_is_unmapped_or_reused(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    static char zeros[8 << 20];
    EXPORT(fill) { for (int64_t i = 0; i < (8 << 20); ++i) zeros[i] = 1; RETURN(zeros[5]); }
    """
    big = compile(source)
    for _ in range(3):
        assert session.load(big)["fill"]() == 1
    reserved, resident = session.stats().bytes_reserved, resident_bytes()
    for _ in range(20):
        assert session.load(big)["fill"]() == 1
    assert session.stats().bytes_reserved == reserved
    assert resident_bytes() < resident + (8 << 20)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
