# SPDX-License-Identifier: Apache-2.0
"""``stats()`` of sessions and dylibs: figures that are known by other means."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from threads import THREADS, Worker, run_in_threads
from traced import OF_THREADS

SIZED = """
#include "safe_call.h"
const char constants[3000] = {1};
char data[1000] = {1};
char zeros[5000];
static int64_t twice(int64_t n) { return 2 * n; }
int64_t hidden_twice(int64_t n) __attribute__((visibility("hidden")));
int64_t hidden_twice(int64_t n) { return twice(n); }
EXPORT(one) { RETURN(twice(INT(0)) + data[5] + zeros[5] + constants[5]); }
EXPORT(two) { RETURN(hidden_twice(INT(0))); }
"""
USES_MISSING = "int missing_anywhere(void);\nint run(void) { return missing_anywhere(); }\n"
SLEEPS = """
#include <time.h>
__attribute__((constructor)) static void wait(void) {
  struct timespec time = {0, 60000000};
  nanosleep(&time, 0);
}
"""
THROWS = "static int thrown = (throw 1, 0);\n"
DUPLICATE = '#include "safe_call.h"\nEXPORT(add) { RETURN(0); }\n'
SPINS = """
#include "safe_call.h"
EXPORT(spin) {
  volatile int64_t* flags = (volatile int64_t*)INT(0);
  flags[0] = 1;
  while (!flags[1]) {}
  RETURN(7);
}
"""


def section_sizes(path: Path) -> dict[str, int]:
    """Return the sizes of an object's sections, as GNU ``size`` has them."""
    shown = subprocess.run(["size", "-A", path], capture_output=True, text=True, check=True)
    rows = [line.split() for line in shown.stdout.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[1].isdigit()}


def globals_of(path: Path) -> list[str]:
    """Return the global symbols that an object defines."""
    command = ["nm", "--defined-only", "--extern-only", "--format=posix", str(path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split()[0] for line in shown.stdout.splitlines()]


def test_what_is_loaded_is_counted(session: tol.Session, compile: Compiler) -> None:
    path = compile(SIZED)
    sizes, symbols = section_sizes(path), globals_of(path)
    dylib = session.load([path, compile("int other;\n")], name="sized")
    stats = dylib.stats()
    assert (stats.name, stats.closed, stats.retained) == ("sized", False, False)
    assert (stats.objects, stats.symbols) == (2, len(symbols) + 1)
    assert stats.functions == sum(name.startswith("__tvm_ffi_") for name in symbols) == 2
    assert sizes[".text"] <= stats.bytes_code < sizes[".text"] + 200
    constants = sizes[".rodata"] + sizes[".eh_frame"]
    assert constants <= stats.bytes_constants < constants + 200
    data = sizes[".data"] + sizes[".bss"] + 4
    assert data <= stats.bytes_data < data + 200
    of_session = session.stats()
    assert (of_session.dylibs, of_session.objects, of_session.functions) == (1, 2, 2)
    assert (of_session.symbols, of_session.loads) == (stats.symbols, 1)


def test_a_session_has_what_its_dylibs_have(session: tol.Session, compile: Compiler) -> None:
    dylibs = [session.load(compile(SIZED)) for _ in range(5)]
    dylibs[0].load(compile("char more[300] = {1};\n"))
    stats = [dylib.stats() for dylib in dylibs]
    of_session = session.stats()
    assert of_session.dylibs == 5
    assert of_session.loads == sum(each.loads for each in stats) == 6
    for name in ("objects", "functions", "symbols"):
        assert getattr(of_session, name) == sum(getattr(each, name) for each in stats)
    for name in ("bytes_code", "bytes_constants", "bytes_data"):
        exact = sum(getattr(each, name) for each in stats)
        # In units of a cache line, or of a page where code is translated.
        assert exact <= getattr(of_session, name) < exact + 6 * 4096
    assert of_session.bytes_reserved > of_session.bytes_code
    assert (of_session.retained, of_session.retained_dylibs) == (0, ())


def test_a_closed_dylib_says_what_it_came_to(session: tol.Session, add_object: Path) -> None:
    dylib = session.load(add_object)
    with pytest.raises(FileNotFoundError):
        dylib.load("absent.o")
    before = dylib.stats()
    assert before.bytes_code > 0
    add = dylib["add"]
    dylib.close()
    stats = dylib.stats()
    assert (stats.closed, stats.retained) == (True, False)
    assert (stats.objects, stats.functions, stats.symbols) == (0, 0, 0)
    assert (stats.bytes_code, stats.bytes_constants, stats.bytes_data) == (0, 0, 0)
    assert (stats.loads, stats.failures) == (before.loads, before.failures) == (1, 1)
    assert stats.seconds_linking == before.seconds_linking > 0
    assert stats.held_by.functions == 1
    session.close()
    assert session.stats().loads == 1
    assert session.stats().bytes_reserved == 0
    del add


def test_time_goes_to_its_stage(session: tol.Session, compile: Compiler, tmp_path: Path) -> None:
    library = tmp_path / "libsleeps.so"
    subprocess.run(["gcc", "-shared", "-o", library, compile(SLEEPS)], check=True)
    begin = time.perf_counter()
    initialized = session.load(compile(SLEEPS + "int other;\n")).stats()
    opened = session.load([library, compile("int nothing;\n")]).stats()
    passed = time.perf_counter() - begin
    assert initialized.seconds_initializing >= 0.06
    assert opened.seconds_linking >= 0.06
    assert initialized.seconds_reading > 0
    stats = session.stats()
    stages = ("seconds_reading", "seconds_linking", "seconds_initializing")
    for stage in stages:
        both = getattr(initialized, stage) + getattr(opened, stage)
        assert getattr(stats, stage) == pytest.approx(both, abs=1e-8)
    assert sum(getattr(stats, stage) for stage in stages) <= passed


def test_a_load_by_an_initializer_counts_for_itself(
    session: tol.Session, compile: Compiler, add_object: Path
) -> None:
    name = "testing.statistics.load"
    source = """
    #include <tvm/ffi/function.h>
    static int loaded = (tvm::ffi::Function::GetGlobalRequired("%s")(), 0);
    """
    inner: list[tol.Dylib] = []
    tvm_ffi.register_global_func(name, lambda: inner.append(session.load(add_object)))
    try:
        outer = session.load(compile.cxx(source % name))
    finally:
        tvm_ffi.remove_global_func(name)
    assert (outer.stats().loads, inner[0].stats().loads, session.stats().loads) == (1, 1, 2)
    assert outer.stats().seconds_initializing >= inner[0].stats().seconds_linking > 0


def refused_loads(
    compile: Compiler, add_object: Path, tmp_path: Path
) -> dict[str, tuple[type[Exception], Callable[[tol.Dylib], object]]]:
    broken_library = tmp_path / "libbroken.so"
    needs = compile(USES_MISSING)
    subprocess.run(["gcc", "-shared", "-o", broken_library, needs], check=True)
    subprocess.run(["gcc", "-shared", "-o", tmp_path / "lib.so", add_object], check=True)
    archive = tmp_path / "empty.a"
    subprocess.run(["ar", "rc", archive], check=True)
    return {
        "a path that leads nowhere": (FileNotFoundError, lambda d: d.load(tmp_path / "absent.o")),
        "no object": (tol.ObjectFormatError, lambda d: d.load(b"no object")),
        "one of two": (tol.ObjectFormatError, lambda d: d.load([compile("int a;\n"), b"none"])),
        "an empty archive": (tol.ObjectFormatError, lambda d: d.load(archive)),
        "a missing symbol": (tol.UndefinedSymbolError, lambda d: d.load(needs)),
        "a second definition": (tol.DuplicateSymbolError, lambda d: d.load(compile(DUPLICATE))),
        "a library": (tol.LinkError, lambda d: d.load(broken_library)),
        "an initializer": (tol.LinkError, lambda d: d.load(compile.cxx(THROWS))),
    }


def test_each_kind_of_failure_is_counted(
    session: tol.Session, compile: Compiler, add_object: Path, tmp_path: Path
) -> None:
    dylib = session.load(add_object)
    kinds = refused_loads(compile, add_object, tmp_path)
    for number, (kind, (error, load)) in enumerate(kinds.items(), 1):
        before = dylib.stats()
        with pytest.raises(error):
            load(dylib)
        stats = dylib.stats()
        assert (stats.loads, stats.failures) == (1, number), kind
        assert (session.stats().loads, session.stats().failures) == (1, number), kind
        assert dataclasses.replace(stats, held_by=before.held_by) == before, kind
        assert stats.seconds_reading > before.seconds_reading, kind
    failures = session.stats().failures
    with pytest.raises(TypeError):
        dylib.load(5)  # type: ignore[arg-type]
    assert session.stats().failures == failures
    # The dylibs of these are gone.
    with pytest.raises(tol.ObjectFormatError):
        session.load(b"no object")
    with pytest.raises(tol.ObjectFormatError, match="a shared library without an object"):
        session.load_module(tmp_path / "lib.so")
    dylib.close()
    with pytest.raises(tol.SessionClosedError):
        dylib.load(add_object)
    assert session.stats().failures == failures + 3
    assert session.stats().loads == 1


def test_loads_by_tvm_ffi_are_counted(session: tol.Session, add_object: Path) -> None:
    with tol.register_as_orcjit(session):
        load = tvm_ffi.get_global_func("tvm_ffi_orcjit.SessionLoadModule")
        assert load(None, [add_object.read_bytes()], "").add(1, 2) == 3
        with pytest.raises(RuntimeError, match="is not an object"):
            load(None, [b"no object"], "")
    assert (session.stats().loads, session.stats().failures) == (1, 1)


def test_functions_and_modules_hold_an_open_dylib(session: tol.Session, add_object: Path) -> None:
    dylib = session.load(add_object)
    nobody = tol.Holders(0, 0, 0, 0, 0, 0, 0, 0)
    assert dylib.stats().held_by == nobody
    assert str(nobody) == "nobody"
    held = [dylib["add"], dylib.module.get_function("add"), dylib.module, dylib.module]
    assert dylib.stats().held_by == dataclasses.replace(nobody, functions=2, modules=2)
    app = session.create_dylib(link_order=[dylib, dylib])
    assert str(dylib.stats().held_by) == "2 functions, 2 modules, 2 dylibs"
    again = session.dylibs  # whose dylibs are the same objects
    assert dylib.stats().held_by.modules == 2
    del held, again
    app.close()
    del app
    gc.collect()
    assert dylib.stats().held_by == nobody


def test_an_object_that_somebody_holds_keeps_a_closed_dylib(
    session: tol.Session, compile: Compiler
) -> None:
    flags = ("-O1", "-fPIC", '-DTYPE_KEY="testing.handing_out.Pair"')
    dylib = session.load(compile.cxx("handing_out.cc", *flags), name="makes")
    given: Any = tvm_ffi.List([])
    append = dylib["append"]
    append(given, 5)
    append(given, 6)
    assert dylib.stats().held_by.objects == 2
    assert not dylib.stats().retained
    dylib.close()
    del append
    gc.collect()
    (retained,) = session.stats().retained_dylibs
    assert retained == dylib.stats()
    assert (retained.name, retained.closed, retained.retained) == ("makes", True, True)
    assert str(retained.held_by) == "2 objects"
    assert (retained.objects, retained.functions) == (1, 0)
    assert retained.bytes_code > 0
    assert session.stats().retained == 1
    del dylib
    gc.collect()
    assert session.stats().retained_dylibs[0].held_by.objects == 2  # dropped now
    del given
    gc.collect()
    assert session.stats().retained_dylibs == ()
    assert session.stats().bytes_code == 0


def test_a_dylib_that_is_linked_against_it_keeps_it(session: tol.Session, add_object: Path) -> None:
    base = session.load(add_object, name="base")
    apps = [session.create_dylib(link_order=[base]) for _ in range(3)]
    base.close()
    (retained,) = session.stats().retained_dylibs
    assert (retained.name, str(retained.held_by)) == ("base", "3 dylibs")
    apps.pop().close()
    assert base.stats().held_by.dylibs == 2
    for app in apps:
        app.close()
    assert base.stats().held_by.dylibs == session.stats().retained == 0


def test_destructors_of_a_thread_keep_it(session: tol.Session, compile: Compiler) -> None:
    worker = Worker()
    dylib = session.load(compile.cxx(OF_THREADS))
    assert worker(dylib["touch"]) == 7
    dylib.close()
    destructors = dylib.stats().held_by.destructors
    assert destructors >= 1
    assert str(dylib.stats().held_by) == f"{destructors} destructor{'s'[: destructors != 1]}"
    worker.end()
    assert dylib.stats().held_by.destructors == session.stats().retained == 0


def test_calls_that_run_are_counted(session: tol.Session, compile: Compiler) -> None:
    import ctypes

    dylib = session.load(compile(SPINS))
    function = dylib["spin"]
    function.release_gil = True
    flags = [(ctypes.c_int64 * 2)() for _ in range(2)]
    threads = [threading.Thread(target=function, args=(ctypes.addressof(f),)) for f in flags]
    for thread in threads:
        thread.start()
    try:
        while not all(flag[0] for flag in flags):
            time.sleep(0.001)
        assert dylib.stats().held_by.calls == 2
        assert session.stats().retained == 0
    finally:
        for flag in flags:
            flag[1] = 1
        for thread in threads:
            thread.join()
    assert dylib.stats().held_by.calls == 0


FOR_EVER = """
import gc, sys
import tvm_ffi_object_loader as tol
session = tol.Session()
dylib = session.load(sys.argv[1], name="registers")
assert dylib["register"]() == 0
dylib.close()
(retained,) = session.stats().retained_dylibs
print(retained.name, retained.held_by, retained.held_by.for_ever)
"""


def test_what_is_registered_for_ever_keeps_it(compile: Compiler, run_script: RunScript) -> None:
    source = """
    #include "safe_call.h"
    #include <tvm/ffi/extra/c_env_api.h>
    static void function(void) {}
    EXPORT(register) {
      RETURN(TVMFFIEnvModRegisterSystemLibSymbol("__tvm_ffi_testing_ever", (void*)function));
    }
    """
    assert run_script(FOR_EVER, compile(source)) == "registers 1 for ever 1\n"


def test_figures_are_plain_data(session: tol.Session, add_object: Path) -> None:
    base = session.load(add_object, name="base")
    app = session.create_dylib("app", link_order=[base])
    base.close()
    figures = session.stats().as_dict()
    assert json.loads(json.dumps(figures)) == figures
    assert figures["retained_dylibs"][0]["held_by"]["dylibs"] == 1
    assert {"dylibs", "objects", "symbols", "loads", "retained", "bytes_reserved"} <= set(figures)
    assert app.stats().as_dict()["held_by"] == app.stats().held_by.as_dict()
    with pytest.raises(dataclasses.FrozenInstanceError):
        app.stats().loads = 5  # type: ignore[misc]


def test_two_are_equal_where_the_same_is_in_memory(session: tol.Session, add_object: Path) -> None:
    session.load(add_object).close()  # takes the address space
    before = session.stats()
    dylib = session.load(add_object)
    assert session.stats() != before
    dylib.close()
    del dylib
    gc.collect()
    assert session.stats() == before
    assert session.stats().loads == before.loads + 1


def test_threads_lose_no_count(session: tol.Session, add_object: Path) -> None:
    content = add_object.read_bytes()
    shared = session.create_dylib()

    def work(number: int) -> None:
        for _ in range(20):
            assert session.load(content)["add"](number, 1) == number + 1
            with pytest.raises(tol.ObjectFormatError):
                shared.load(b"no object")
            assert session.stats().dylibs >= 1
            assert shared.stats().failures > 0

    run_in_threads(work)
    assert session.stats().loads == session.stats().failures == 20 * THREADS
    assert shared.stats().failures == 20 * THREADS


FORKS = """
import os, sys
import tvm_ffi_object_loader as tol
session = tol.Session()
dylib = session.load(sys.argv[1], name="first")
child = os.fork()
if child == 0:
    other = session.load(sys.argv[1])
    assert other["add"](1, 2) == 3
    stats = session.stats()
    os._exit(0 if (stats.loads, stats.dylibs, dylib.stats().loads) == (2, 2, 1) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), session.stats().loads)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_goes_on_counting(run_script: RunScript, add_object: Path) -> None:
    assert run_script(FORKS, add_object) == "0 1\n"
