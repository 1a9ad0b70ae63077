# SPDX-License-Identifier: Apache-2.0
"""The end of the process: whatever is still loaded, held or running, it is an orderly one."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import Trace
from instances import matrix_but

PRINTS = """
#include "safe_call.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void say(const char* text) { (void)!write(1, text, strlen(text)); }
struct Static { ~Static() { say(" static"); } };
static Static object;
static void handler(void) { say(" handler"); }
__attribute__((constructor)) static void init(void) { say(" init"); atexit(handler); }
__attribute__((destructor)) static void fini(void) { say(" fini"); }
__attribute__((destructor(101))) static void late(void) { say(" late"); }
EXPORT(add) { RETURN(INT(0) + INT(1)); }
EXPORT(sleep) { for (int i = 0; i < 20000; ++i) usleep(1000); RETURN(0); }
EXPORT(call) {
  TVMFFIAny result = {0};
  if (TVMFFIFunctionCall(args[0].v_obj, 0, 0, &result)) return -1;
  RETURN(5);
}
EXPORT(exit) { exit((int)INT(0)); }
EXPORT(quit) { quick_exit((int)INT(0)); }
"""
PREAMBLE = """
import atexit, gc, os, sys, threading, time
import tvm_ffi
import tvm_ffi_object_loader as tol

path = sys.argv[1]
"""
ENDED = " init static handler fini late"


def end(script: str, *arguments: object) -> tuple[int, str, str]:
    """Return what the script ends with: its code, and what it printed to stdout and to stderr."""
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.fixture(scope="module")
def prints(compile: Compiler) -> Path:
    """Return an object whose constructors, destructors and handlers say so."""
    # Without GNU_UNIQUE, which keeps a dlopened library loaded for good.
    return compile.cxx(PRINTS, "-O1", "-fPIC", "-fno-gnu-unique", name="prints")


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("module.exit(5)", 5),
        ("module.quit(6)", 6),
        ("threading.Thread(target=sys.exit, args=(7,)).start()", 0),
        ("threading.Thread(target=module.exit, args=(8,)).start(); time.sleep(30)", 8),
    ],
)
def test_code_that_is_never_unloaded_ends_as_dlopened(
    compile: Compiler, prints: Path, ending: str, code: int
) -> None:
    script = f"module = tvm_ffi.load_module(path)\nassert module.add(1, 2) == 3\n{ending}\n"
    ours, dlopened = end(script, prints), end(script, compile.link(prints))
    assert ours == dlopened
    assert ours[0] == code
    assert ours[2] == ""


@pytest.mark.parametrize(
    "held",
    [
        "function = tol.load_module(path).add",
        "module = tol.load_module(path)",
        "dylib = tol.default_session().load(path)",
        "session = tol.Session(); dylib = session.load(path)",
        "loader = tol.ObjectLoader().load(path)",
        "holder = [tol.load_module(path).add]; holder.append(holder); del holder; gc.disable()",
        "tvm_ffi.register_global_func('held', tol.load_module(path).add)",
        "held = tvm_ffi.convert([tol.load_module(path).add])",
        "sys.held = tol.load_module(path).add; import builtins; builtins.held = sys.held",
        "base = tol.Session().load(path); app = base.session.create_dylib(link_order=[base])",
        "threading.held = threading.local(); threading.held.x = tol.load_module(path)",
    ],
)
def test_whoever_holds_the_code_at_the_end_it_is_finalized_once(prints: Path, held: str) -> None:
    code, out, err = end(held + "\n", prints)
    assert (code, err) == (0, "")
    assert sorted(out.split()) == sorted(ENDED.split())
    assert out.split()[-1] == "late"


def test_a_library_and_an_object_are_finalized_like_two_libraries(
    compile: Compiler, prints: Path
) -> None:
    script = "kept = [tvm_ffi.load_module(one) for one in sys.argv[1:]]\n"
    again = compile.cxx(PRINTS.replace('say(" ', 'say(" 2'), "-O1", "-fPIC", "-fno-gnu-unique")
    ours = end(script, prints, again)
    dlopened = end(script, compile.link(prints), compile.link(again))
    assert (ours[0], ours[2]) == (dlopened[0], dlopened[2]) == (0, "")
    # Of two that do not use each other it does not matter which one ends first.
    two = ours[1].replace(" 2fini 2late", ""), dlopened[1].replace(" 2fini 2late", "")
    assert two[0] == two[1]
    assert len(two[0]) == len(ours[1]) - len(" 2fini 2late")


@pytest.mark.parametrize(
    "script",
    [
        "class Last:\n"
        "    def __init__(self): self.session = tol.Session(); self.load = self.session.load\n"
        "    def __del__(self):\n"
        "        assert self.load(path)['add'](1, 2) == 3\n"
        "        self.session.close()\n"
        "last = Last()\n",
        "session = tol.Session()\ndylib = session.load(path)\natexit.register(session.close)\n",
        "@atexit.register\ndef last():\n    global kept\n    kept = tol.load_module(path)\n",
    ],
    ids=["__del__", "atexit", "load at exit"],
)
def test_loading_and_closing_while_the_interpreter_ends(prints: Path, script: str) -> None:
    code, out, err = end(script, prints)
    assert (code, err) == (0, "")
    assert sorted(out.split()) == sorted(ENDED.split())


def test_an_exception_while_the_interpreter_ends(prints: Path) -> None:
    script = (
        "module = tol.load_module(path)\n"
        "class Last:\n"
        "    def __del__(self, add=module.add): add(1, 2); raise KeyError('from __del__')\n"
        "last = Last()\n"
        "@atexit.register\ndef fail(): raise KeyError('from atexit')\n"
    )
    code, out, err = end(script, prints)
    assert code == 0
    assert sorted(out.split()) == sorted(ENDED.split())
    assert err.count("KeyError") == 2
    assert "Fatal" not in err


@pytest.mark.parametrize(
    "work",
    matrix_but(
        [
            "sleep()",
            "add(1, 2)",
            "tol.Session().load(quiet)",
            "session.load(quiet)['add'](1, 2)",
            "session.create_dylib().close()",
            "len(session.dylibs)",
            "tol.Session().load([quiet, library])",
        ],
        "add(1, 2)",
        "session.load(quiet)['add'](1, 2)",
    ),
)
def test_daemon_threads_at_work_when_the_process_ends(
    compile: Compiler, prints: Path, work: str
) -> None:
    quiet = compile.cxx(
        '#include "safe_call.h"\nstruct S { int* p; S() : p(new int) {} ~S() { delete p; } };\n'
        "static S s;\nEXPORT(add) { RETURN(INT(0) + INT(1) + !s.p); }\n"
    )
    library = compile.link(compile("int of_library(void) { return 1; }\n"))
    script = f"""
quiet, library = sys.argv[2:]
session = tol.Session()
# tvm-ffi's own functions, such as one that finds it, abort where Python ends a thread in them.
sleep = tvm_ffi.load_module(path).sleep
add = session.load(quiet)["add"]


begun = []


def run():
    while True:
        begun.append(True)
        {work}


for _ in range(4):
    threading.Thread(target=run, daemon=True).start()
while len(begun) < {4 if "sleep" in work else 100}:
    time.sleep(0.001)
"""
    for _ in range(3):
        code, out, err = end(script, prints, quiet, library)
        assert (code, err) == (0, "")
        assert out == ENDED


THROWS_AT_UNLOAD = """
#include "safe_call.h"
#include "trace.h"
#include <cstdlib>
#include <stdexcept>
struct Throws {
  ~Throws() noexcept(false) { trace(1); throw std::runtime_error("a destructor"); }
};
struct Fine { ~Fine() { trace(2); } };
static Fine before;
static Throws throws;
static Fine after;
static void handler() { trace(3); throw 4; }
static void fine_handler() { trace(5); }
static void* argument;
extern "C" int __cxa_atexit(void (*)(void*), void*, void*);
extern "C" void* __dso_handle;
static void with_argument(void*) { trace(6); throw "a text"; }
__attribute__((constructor)) static void init() {
  atexit(fine_handler);
  atexit(handler);
  __cxa_atexit(with_argument, &argument, &__dso_handle);
  atexit(fine_handler);
}
__attribute__((destructor)) static void fini1() { trace(7); throw 8; }
__attribute__((destructor)) static void fini2() { trace(9); }
__attribute__((destructor(200))) static void late1() { trace(10); throw 11; }
__attribute__((destructor(200))) static void late2() { trace(12); }
EXPORT(add) { RETURN(INT(0) + INT(1)); }
"""


def test_what_throws_at_unload_keeps_nothing_else_from_running(
    compile: Compiler, session: tol.Session, trace: Trace, add_object: Path
) -> None:
    """A linked library ends the process where something throws that dlclose runs."""
    throwing = compile.cxx(THROWS_AT_UNLOAD, "-O1", "-fPIC")
    dylib = session.load(throwing)
    assert dylib["add"](1, 2) == 3
    assert trace.take() == []
    dylib.close()
    # GCC and Clang may have the objects' constructors in either order with init().
    run = trace.take()
    assert sorted(run) == [1, 2, 2, 3, 5, 5, 6, 7, 9, 10, 12]
    assert {7, 9} == set(run[:2])
    assert {10, 12} == set(run[-2:])
    del dylib
    assert session.stats().bytes_code == session.stats().retained == 0
    # Dropped, not closed; and the session goes on.
    assert session.load(throwing)["add"](1, 2) == 3
    gc.collect()
    assert sorted(trace.take()) == sorted(run)
    assert session.load(add_object)["add"](1, 2) == 3

    script = "module = tvm_ffi.load_module(path, keep_module_alive=False)\ndel module\ngc.collect()"
    assert end(script, compile.link(throwing))[0] < 0  # by a signal


def test_threads_that_are_in_a_load_while_the_loader_itself_is_torn_down(
    compile: Compiler, prints: Path
) -> None:
    """An exit handler from before the import keeps the process alive after the loader's own."""
    slow = compile.cxx(
        "#include <string>\n#include <unistd.h>\nstatic std::string text(100, 'x');\n"
        "__attribute__((constructor)) static void init() { usleep(100000); }\n"
        "__attribute__((destructor)) static void fini() { text.clear(); }\n"
    )
    lingers = compile.link(
        compile(
            "#include <stdlib.h>\n#include <unistd.h>\n"
            "static void linger(void) { usleep(400000); }\n"
            "__attribute__((constructor)) static void init(void) { atexit(linger); }\n"
        )
    )
    script = """
session = tol.Session()
kept = []


def run():
    while True:
        kept.append(tol.Session().load(sys.argv[2]))
        session.load(sys.argv[2]).close()


for _ in range(4):
    threading.Thread(target=run, daemon=True).start()
while len(kept) < 4:
    time.sleep(0.001)
"""
    first = f"import ctypes\nctypes.CDLL({str(lingers)!r})\n"
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, "-c", first + PREAMBLE + script, str(prints), str(slow)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (result.returncode, result.stderr) == (0, "")
