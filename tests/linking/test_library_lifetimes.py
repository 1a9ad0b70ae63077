# SPDX-License-Identifier: Apache-2.0
"""Shared libraries that loads open: which cannot be, how long they stay, and in which threads."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tvm_ffi import libinfo

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace
from processors import OTHER
from refusal import Refusal
from shared_libraries import USER, is_mapped, total
from shared_libraries import libraries as libraries
from shared_libraries import user as user
from threads import run_in_threads


def test_a_library_that_cannot_be_opened(
    refusal: Refusal, compile: Compiler, user: Path, tmp_path: Path
) -> None:
    lacking = compile.link(compile("int gone(void);\nint use_it(void) { return gone(); }\n"))
    scripts = {
        "script.so": "/* GNU ld script */\nGROUP ( /lib/libm.so.6 AS_NEEDED ( /mvec.so ) )\n",
        "input.so": "INPUT(libreal.so.1)\n",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    pie, main = tmp_path / "pie", compile("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-pie", str(main), "-o", str(pie)], check=True)
    foreign = tmp_path / "foreign.so"
    content = bytearray(lacking.read_bytes())
    content[18:20] = OTHER.header()
    foreign.write_bytes(content)
    cases: list[tuple[Path, type[BaseException], tuple[str, ...]]] = [
        (lacking, tol.LinkError, ("undefined symbol: gone",)),
        (pie, tol.LinkError, ("position-independent executable",)),
        (tmp_path / "script.so", tol.ObjectFormatError, ("linker script",)),
        (tmp_path / "input.so", tol.ObjectFormatError, ("linker script",)),
        (foreign, tol.ObjectFormatError, (f"shared library for {OTHER.name}",)),
        (tmp_path / "absent.so", FileNotFoundError, ()),
        (tmp_path, IsADirectoryError, ()),
    ]
    for path, error, said in cases:
        for attempt in (
            lambda path=path: refusal.dylib.load([user, path]),
            lambda path=path: refusal.session.load(user, link_order=[path]),
            lambda path=path: refusal.session.load_module([path, user]),
        ):
            with refusal.of(error, path, *said):
                attempt()
    with refusal.of(tol.ObjectFormatError, user, "not a shared library"):
        refusal.session.create_dylib("x", link_order=[user])
    with refusal.of(ValueError, "null"):
        refusal.session.create_dylib("x", link_order=["a\0b"])


TRUNCATE = """
import pathlib, struct, sys
import tvm_ffi_object_loader as tol

whole, cut = pathlib.Path(sys.argv[1]).read_bytes(), pathlib.Path(sys.argv[2])
table, count = struct.unpack_from("<Q", whole, 32)[0], struct.unpack_from("<H", whole, 56)[0]
segments = [struct.unpack_from("<6Q", whole, table + 56 * i) for i in range(count)]
needed = max(offset + size for _, offset, _, _, size, _ in segments)
session = tol.Session()
lengths = {*range(64), *range(64, needed, 53), *range(needed - 20, needed)}
for length in lengths:
    cut.write_bytes(whole[:length])
    try:
        session.load(cut)
    except tol.ObjectFormatError as error:
        assert str(cut) in str(error)
    else:
        raise AssertionError(f"{length} of {len(whole)} bytes were loaded")
    cut.unlink()
cut.write_bytes(whole[:needed])
session.load(cut)
print(len(lengths) > 200)
"""


def test_a_truncated_library_is_refused(
    libraries: list[Path], run_script: RunScript, tmp_path: Path
) -> None:
    assert run_script(TRUNCATE, libraries[0], tmp_path / "cut.so") == "True\n"


def test_a_refused_load_closes_the_library_again(
    refusal: Refusal, compile: Compiler, libraries: list[Path], user: Path, trace: Trace
) -> None:
    broken = compile("int gone(void);\nint use_it(void) { return gone(); }\n", name="broken")
    throws = compile.cxx(
        "#include <stdexcept>\nstatic int x = [] { throw std::runtime_error("
        '"no"); return 1; }();\nint* keep() { return &x; }\n'
    )
    cases = [(broken, tol.UndefinedSymbolError, [1, -1]), (throws, tol.LinkError, [1, -1])]
    for bad, error, events in cases:
        with refusal.of(error, bad):
            refusal.dylib.load([user, bad, libraries[0]])
        assert trace.take() == events
        assert not is_mapped(libraries[0])
        with refusal.of(tol.UndefinedSymbolError):
            refusal.dylib.load(user)
    # What can be seen without opening the library is seen before.
    with refusal.of(tol.ObjectFormatError):
        refusal.dylib.load([libraries[0], b"no object"])
    assert trace.take() == []
    with refusal.of(tol.ObjectLoaderError, "good"):
        refusal.session.create_dylib("good", link_order=[libraries[0]])
    assert not is_mapped(libraries[0])


def test_a_library_stays_as_long_as_code_that_uses_it(
    session: tol.Session, libraries: list[Path], user: Path, trace: Trace
) -> None:
    base = session.load(libraries[0], name="base")
    app = session.load(user, link_order=[base])
    base.close()
    assert app["use"]() == total(1)
    function = app["use"]
    del app, base
    gc.collect()
    assert function() == total(1)
    assert is_mapped(libraries[0])
    session.close()
    assert trace.take() == [1, -1]
    assert not is_mapped(libraries[0])


def test_a_library_of_two_names_is_one(
    session: tol.Session, libraries: list[Path], user: Path, trace: Trace, tmp_path: Path
) -> None:
    other = tmp_path / "other.so"
    other.symlink_to(libraries[0])
    for _ in range(2):
        first = session.load(user, link_order=[libraries[0]])
        second = session.load([user, other])
        first["set"](70)
        assert second["use"]() == total(1) + 69
        first.close()
        assert second["use"]() == total(1) + 69
        assert is_mapped(libraries[0])
        second.close()
        assert trace.take() == [1, -1]
        assert not is_mapped(libraries[0])


def test_the_objects_end_before_their_library(
    session: tol.Session, compile: Compiler, libraries: list[Path], trace: Trace
) -> None:
    source = """
    #include "trace.h"
    int64_t number(void);
    __attribute__((constructor)) static void init(void) { trace(10 + number()); }
    __attribute__((destructor)) static void fini(void) { trace(-10 - number()); }
    """
    session.load([compile(source), libraries[0]]).close()
    assert trace.take() == [1, 11, -11, -1]


LOADS_ITSELF = """
import sys
import threading
import tvm_ffi, tvm_ffi_object_loader as tol

session = tol.Session()
dylib = session.load(sys.argv[2], name="dylib")
seen = []


@tvm_ffi.register_global_func("load_more")
def load_more():
    seen.append((dylib["add"](1, 2), list(session.dylibs), dylib.functions, session.stats()))
    dylib.load(sys.argv[3])
    with session.load(sys.argv[2]) as other:
        assert other["add"](3, 4) == 7


dylib.load(sys.argv[1])
assert seen[0][:3] == (3, ["dylib"], ["add"]), seen
print(dylib["more"]())
"""


def test_a_library_is_opened_without_any_lock(
    compile: Compiler, add_object: Path, run_script: RunScript
) -> None:
    """Its constructor takes the GIL, loads into the same dylib and another one, and asks around."""
    source = """
    #include <tvm/ffi/function.h>
    __attribute__((constructor)) static void init() {
      tvm::ffi::Function::GetGlobalRequired("load_more")();
    }
    """
    more = compile('#include "safe_call.h"\nEXPORT(more) { RETURN(7); }\n')
    folder = Path(libinfo.find_libtvm_ffi()).parent
    library = compile.link(compile.cxx(source), flags=(f"-L{folder}", "-ltvm_ffi"))
    assert run_script(LOADS_ITSELF, library, add_object, more, timeout=60) == "7\n"


def test_a_library_whose_constructor_throws(compile: Compiler, tmp_path: Path) -> None:
    """It ends the process, as it does where the library is dlopened."""
    library = compile.link(compile.cxx("static int x = [] { throw 1; return 2; }();\nint y = x;\n"))
    load = "import tvm_ffi_object_loader as tol\ntol.Session().load(sys.argv[1])\n"
    codes = []
    for opening in (load, "import ctypes\nctypes.CDLL(sys.argv[1])\n"):
        result = subprocess.run(
            [sys.executable, "-c", f"import sys\n{opening}", str(library)], capture_output=True
        )
        codes.append(result.returncode)
    assert codes[0] == codes[1] != 0


def test_libraries_in_many_threads(
    session: tol.Session, libraries: list[Path], user: Path, trace: Trace
) -> None:
    def work(number: int) -> None:
        for _ in range(30):
            dylib = session.load([user, libraries[number % 2]], link_order=libraries[::-1])
            assert dylib["use"]() == total(number % 2 + 1)

    run_in_threads(work)
    gc.collect()
    assert not any(map(is_mapped, libraries))


KEEPS_FOR_THREADS = """
#include <pthread.h>
#include <stdint.h>
static pthread_key_t key;
static void destroy(void* value) { *(int*)value = 4711; }
__attribute__((constructor)) static void init(void) { pthread_key_create(&key, destroy); }
void keep(void* value) { pthread_setspecific(key, value); }
"""
USES_KEPT = """
#include "safe_call.h"
void keep(void*);
EXPORT(run) { keep((void*)(intptr_t)INT(0)); RETURN(0); }
"""


@pytest.mark.parametrize("indirect", [False, True], ids=["the library", "one that it needs"])
@pytest.mark.parametrize("how", ["with the objects", "in the link order"])
def test_a_library_that_keeps_something_for_threads_stays(
    session: tol.Session, compile: Compiler, how: str, indirect: bool
) -> None:
    unique = f"/* {how} {indirect} {os.getpid()} */"
    given = keeping = compile.link(compile(KEEPS_FOR_THREADS + unique), flags=("-lpthread",))
    if indirect:
        caller = compile("void keep(void*);\nvoid call(void* v) { keep(v); }\n" + unique)
        given = compile.link(caller, flags=(str(keeping), f"-Wl,-rpath,{keeping.parent}"))
    source = USES_KEPT.replace("keep", "call") if indirect else USES_KEPT
    user = compile(source)
    value = ctypes.c_int(0)
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        if how == "with the objects":
            dylib = session.load([user, given])
        else:
            dylib = session.load(user, link_order=[given])
        dylib["run"](ctypes.addressof(value))
        dylib.close()
        del dylib
        started.set()
        done.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    gc.collect()
    assert is_mapped(keeping)
    done.set()
    thread.join()
    # Python lets go of a thread before the C library is done with it.
    for _ in range(60_000):
        if value.value:
            break
        time.sleep(0.001)
    assert value.value == 4711
    if indirect:
        assert not is_mapped(given) or given == keeping


def test_a_library_that_defines_nothing_and_uses_threads_stays(
    session: tol.Session, compile: Compiler
) -> None:
    source = """
    #include <pthread.h>
    static pthread_key_t key;
    static void destroy(void* value) {}
    __attribute__((constructor)) static void init(void) { pthread_key_create(&key, destroy); }
    """
    library = compile.link(compile(source + f"/* {os.getpid()} */"), flags=("-lpthread",))
    session.load([compile(USER.split("int64_t own")[0] + "int x;"), library]).close()
    assert is_mapped(library)


ANOTHER_AT_THE_SAME_PLACE = """
import ctypes, _ctypes, sys
import tvm_ffi_object_loader as tol

user, *libraries = sys.argv[1:]
session = tol.Session()
outcomes = [session.load(user)["get"]()]
first = ctypes.CDLL(libraries[0])
outcomes.append(session.load(user)["get"]())
_ctypes.dlclose(first._handle)
second = ctypes.CDLL(libraries[1], mode=ctypes.RTLD_GLOBAL)
outcomes.append(session.load(user)["get"]())
print(*outcomes, tol.Session().load(user)["get"]())
"""


def test_a_library_where_another_one_was_is_not_overlooked(
    compile: Compiler, run_script: RunScript
) -> None:
    """What a header defines is the global scope's, where a library in it has it."""
    user = compile.cxx(
        '#include "safe_call.h"\ninline int shared_value = 5;\n'
        "EXPORT(get) { RETURN(shared_value); }"
    )
    other = compile.link(compile("int other_value = 1;\n"))
    defines = compile.link(compile("int shared_value = 77;\n"))
    assert run_script(ANOTHER_AT_THE_SAME_PLACE, user, other, defines) == "5 5 77 77\n"
