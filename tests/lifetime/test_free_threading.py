# SPDX-License-Identifier: Apache-2.0
"""What no GIL keeps apart: threads that share everything. It holds with a GIL as well."""

from __future__ import annotations

import dataclasses
import gc
import sysconfig
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from threads import THREADS, run_in_threads

IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

IMPORT = """
import sys
import tvm_ffi_object_loader as tol

with tol.Session() as session:
    assert session.load(sys.argv[1])["add"](1, 2) == 3
print(sys._is_gil_enabled())
"""


@pytest.mark.skipif(not IS_FREE_THREADED, reason="this Python always has a GIL")
def test_importing_leaves_the_gil_disabled(add_object: Path, run_script: RunScript) -> None:
    # A module that does not declare that it needs no GIL turns it on, with a warning.
    assert run_script(IMPORT, add_object, PYTHON_GIL="") == "False\n"


IMPORT_AT_ONCE = """
import importlib, sys, threading

start = threading.Barrier(8)
sessions, errors = [], []


def work():
    try:
        start.wait()
        tol = importlib.import_module("tvm_ffi_object_loader")
        start.wait()
        session = tol.default_session()
        sessions.append(session)
        assert session.load(sys.argv[1])["add"](1, 2) == 3
    except BaseException as error:
        errors.append(error)


threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(errors, len(set(map(id, sessions))), len(sessions))
"""


def test_many_threads_import_and_make_the_default_session(
    add_object: Path, run_script: RunScript
) -> None:
    assert run_script(IMPORT_AT_ONCE, add_object, timeout=120) == "[] 1 8\n"


NEW_TYPES = """
import sys, threading
import tvm_ffi_object_loader as tol

count = tol.ObjectLoader().load(sys.argv[1])["count"]
classes = [type(f"Class{number}", (), {"__slots__": ()}) for number in range(8000)]
start = threading.Barrier(4)
errors = []


def work(number):
    try:
        own = [cls() for cls in classes[number::4]]
        start.wait()
        for one, other in zip(own, reversed(own)):
            if count(one) != 1 or count(other, one) != 2:
                errors.append(one)
    except BaseException as error:
        errors.append(error)


threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(errors)
"""


def test_arguments_of_types_that_are_new(compile: Compiler, run_script: RunScript) -> None:
    """What is known of types, which is kept, grows in all threads at once."""
    source = """
    #include "safe_call.h"
    EXPORT(count) { RETURN(num_args); }
    """
    assert run_script(NEW_TYPES, compile(source), timeout=120) == "[]\n"


def test_many_close_one_dylib(session: tol.Session, add_object: Path) -> None:
    """The handle of what was loaded is let go of once."""
    before = session.stats()
    for _ in range(20):
        dylib = session.load(add_object)
        run_in_threads(lambda _, dylib=dylib: dylib.close())  # type: ignore[misc]
        assert dylib.closed
        with pytest.raises(tol.SessionClosedError):
            dylib["add"]
        del dylib
    gc.collect()
    after = session.stats()
    assert dataclasses.replace(after, bytes_reserved=0) == dataclasses.replace(
        before, bytes_reserved=0
    )


def test_many_load_into_one_dylib_and_close_it(session: tol.Session, compile: Compiler) -> None:
    numbered = [
        compile(f'#include "safe_call.h"\nEXPORT(g_{n}) {{ RETURN({n}); }}', name=f"g{n}")
        for n in range(THREADS)
    ]
    before = session.stats()
    for _ in range(20):
        dylib = session.create_dylib()

        def work(number: int, dylib: tol.Dylib = dylib) -> None:
            try:
                dylib.load(numbered[number])
                assert dylib[f"g_{number}"]() == number
                assert dylib.module.get_function(f"g_{number}")() == number
            except tol.SessionClosedError:
                pass
            if number == 0:
                dylib.close()

        run_in_threads(work)
        del dylib, work
    gc.collect()
    after = session.stats()
    for key in ("dylibs", "objects", "symbols", "retained", "bytes_code", "bytes_data"):
        assert getattr(after, key) == getattr(before, key)


def test_one_session_is_asked_for_everything_at_once(
    session: tol.Session, add_object: Path
) -> None:
    """Names, wrappers, modules and functions, made and dropped while others look at them."""
    base = session.load(add_object, name="base")
    function = base["add"]

    def work(number: int) -> None:
        for turn in range(60):
            name = f"{number}-{turn}"
            dylib = session.create_dylib(name, [base] if turn % 2 else [])
            assert session[name] is dylib
            assert dylib in session.dylibs.values()
            assert session["base"] is base
            assert dylib.link_order == ([base] if turn % 2 else [])
            assert dylib.session is session
            dylib.load(add_object)
            assert dylib.functions == base.functions == ["add"]
            assert dylib.lookup("__tvm_ffi_add") != base.lookup("__tvm_ffi_add")
            assert dylib.module.add(1, 2) == base.module.add(1, 2) == function(1, 2) == 3
            assert dylib.module == dylib.module
            with pytest.raises(KeyError, match="has no dylib"):
                session[name + "-absent"]
            with pytest.raises(tol.ObjectLoaderError, match="already has a dylib"):
                session.create_dylib("base")
            assert "base" in repr(base)
            if turn % 3 == 0:
                dylib.close()

    run_in_threads(work)
    gc.collect()
    assert list(session) == ["base"]


def test_one_function_is_called_and_set_by_many(session: tol.Session, add_object: Path) -> None:
    function = session.load(add_object)["add"]

    def work(number: int) -> None:
        for turn in range(2000):
            if number == 0:
                function.release_gil = turn % 2 == 0
            assert function(number, turn) == number + turn

    run_in_threads(work)
    function.release_gil = True


def test_made_up_names_of_sessions_differ() -> None:
    names: list[str] = []

    def work(_: int) -> None:
        names.extend([tol.Session().name for _ in range(50)])

    run_in_threads(work)
    assert len(set(names)) == len(names)


def test_functions_that_others_hold_stay_theirs(session: tol.Session, compile: Compiler) -> None:
    """A function object that many get at once is each one's own, or everybody's."""
    source = """
    #include "safe_call.h"
    EXPORT(give) {
      TVMFFIObjectIncRef(args[0].v_obj);
      *ret = args[0];
      return 0;
    }
    EXPORT(add) { RETURN(INT(0) + INT(1)); }
    """
    dylib = session.load(compile(source))
    add, give = dylib["add"], dylib["give"]

    def work(number: int) -> None:
        for turn in range(500):
            got = give(add)
            assert isinstance(got, tvm_ffi.Function)
            assert got(number, turn) == number + turn
            assert got.same_as(add)

    run_in_threads(work)
    assert add(1, 2) == 3
