# SPDX-License-Identifier: Apache-2.0
"""`close` unloads at once, and what is held past it raises `SessionClosedError`."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from traced import TRACED, USER, sizes


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
