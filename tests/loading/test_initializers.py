# SPDX-License-Identifier: Apache-2.0
"""Static initializers, destructors and atexit handlers: which run, when, and in which order."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain
from conftest import Trace

C_ORDER = """
#include "safe_call.h"
#include "trace.h"
#define EVENT(n) (BASE + n)
__attribute__((constructor)) static void plain1(void) { trace(EVENT(1)); }
__attribute__((constructor(2000))) static void late(void) { trace(EVENT(2)); }
__attribute__((constructor(101))) static void first(void) { trace(EVENT(3)); }
__attribute__((constructor(102))) static void second(void) { trace(EVENT(4)); }
__attribute__((constructor)) static void plain2(void) { trace(EVENT(5)); }
__attribute__((destructor)) static void end1(void) { trace(EVENT(11)); }
__attribute__((destructor(101))) static void end_last(void) { trace(EVENT(12)); }
__attribute__((destructor(2000))) static void end_early(void) { trace(EVENT(13)); }
__attribute__((destructor)) static void end2(void) { trace(EVENT(14)); }
"""
CXX_ORDER = """
#include "safe_call.h"
#include "trace.h"
#include <cstdlib>
struct Traced {
  explicit Traced(int event) : event_(event) { trace(event); }
  ~Traced() { trace(-event_); }
  int event_;
};
static Traced plain(1);
__attribute__((init_priority(300))) Traced third(2);
__attribute__((init_priority(101))) Traced first(3);
inline Traced shared_inline(4);
template <int N> struct Holder { static Traced member; };
template <int N> Traced Holder<N>::member(N);
__attribute__((constructor(200))) static void between() { trace(6); }
__attribute__((destructor(200))) static void end_between() { trace(-6); }
__attribute__((destructor)) static void end_plain() { trace(-7); }
static void handler1() { trace(-8); }
static void handler2() { trace(-9); }
static void late_handler() { trace(-10); }
__attribute__((constructor)) static void register_handlers() {
  std::atexit(handler1);
  std::atexit(handler2);
}
EXPORT(touch) {
  static Traced local(20);
  std::atexit(late_handler);
  RETURN(local.event_ + Holder<5>::member.event_);
}
"""


def load_call_and_unload(
    load: Callable[[], Callable[[], object]], trace: Trace
) -> tuple[list[int], list[int], list[int]]:
    """Return what is traced by the load, the call and the unload."""
    assert trace.take() == []
    function = load()
    at_load = trace.take()
    function()
    at_call = trace.take()
    del function
    gc.collect()
    return at_load, at_call, trace.take()


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_priorities_and_atexit_as_dlopen_runs_them(
    session: tol.Session, compile: Compiler, trace: Trace, toolchain: Toolchain
) -> None:
    # Without GNU_UNIQUE, which keeps a dlopened library loaded for good.
    flags = ["-O1", "-fPIC"] + ["-fno-gnu-unique"] * (toolchain.name == "gcc")
    path = compile.cxx(CXX_ORDER, *flags, toolchain=toolchain)
    ours = load_call_and_unload(lambda: session.load(path)["touch"], trace)
    dlopened = load_call_and_unload(lambda: compile.dlopen(path).get_function("touch"), trace)
    assert ours == dlopened
    assert sorted(ours[0]) == [1, 2, 3, 4, 5, 6]
    assert ours[0][:3] == [3, 6, 2]
    assert ours[1] == [20]
    assert sorted(ours[2]) == sorted([-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -20])


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_priorities_across_the_objects_of_one_load(
    session: tol.Session, compile: Compiler, add_object: Path, trace: Trace, toolchain: Toolchain
) -> None:
    objects = [
        compile(C_ORDER, "-O1", "-fPIC", f"-DBASE={base}", toolchain=toolchain) for base in (0, 100)
    ]
    objects.append(add_object)

    def add(function: Callable[..., object]) -> Callable[[], object]:
        return lambda: function(1, 2)

    ours = load_call_and_unload(lambda: add(session.load(objects)["add"]), trace)
    dlopened = load_call_and_unload(
        lambda: add(compile.dlopen(*objects).get_function("add")), trace
    )
    assert ours == dlopened
    assert ours[0][:4] == [3, 103, 4, 104]
    assert ours[2][-2:] in ([12, 112], [112, 12])


def test_a_constructor_gets_the_arguments_that_dlopen_gives_it(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    source = """
    #include "trace.h"
    extern char** environ;
    __attribute__((constructor)) static void init(int argc, char** argv, char** envp) {
      trace(argc);
      trace(argv != 0 && argv[argc] == 0);
      trace(envp != 0);
    }
    """
    path = compile(source)
    dylib = session.load(path)
    ours = trace.take()
    dlopened = compile.dlopen(path)
    assert ours == trace.take()
    del dylib, dlopened


SEES_BOTH = """
#include "safe_call.h"
#include "trace.h"
int64_t later_value(void);
static int64_t seen;
__attribute__((constructor)) static void init(void) { seen = later_value(); trace(seen); }
EXPORT(seen) { RETURN(seen); }
"""
LATER = """
#include <stdint.h>
#include "trace.h"
static int64_t value = 77;
int64_t later_value(void) { return value; }
__attribute__((constructor)) static void init(void) { trace(2); }
"""


def test_a_constructor_calls_into_another_object_of_the_load(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    dylib = session.load([compile(SEES_BOTH), compile(LATER)])
    assert trace.take() == [77, 2]
    assert dylib["seen"]() == 77


def test_initializers_have_finished_when_load_returns(
    session: tol.Session, compile: Compiler
) -> None:
    source = """
    #include "safe_call.h"
    #include <string>
    static int64_t slow() {
      int64_t sum = 0;
      for (int64_t i = 0; i < 1000; ++i) sum += i;
      return sum;
    }
    volatile int64_t computed = slow();
    static std::string text = std::string(100, 'x') + "y";
    EXPORT(computed) { RETURN(computed + (int64_t)text.size()); }
    """
    assert session.load(compile.cxx(source))["computed"]() == 499500 + 101


def test_a_later_load_runs_its_own_initializers_only(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    first, second = (compile(C_ORDER, "-O1", "-fPIC", f"-DBASE={base}") for base in (0, 100))
    dylib = session.load(first)
    assert trace.take() == [3, 4, 2, 1, 5]
    dylib.load(second)
    assert trace.take() == [103, 104, 102, 101, 105]
    dylib.close()
    # Loads end in reverse order, each of them as a whole.
    assert [event // 100 for event in trace.take()] == [1] * 4 + [0] * 4


def test_each_load_of_one_object_has_its_own_initializers(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    path = compile(LATER)
    first, second = session.load(path), session.load(path)
    assert trace.take() == [2, 2]
    assert first.lookup("later_value") != second.lookup("later_value")


def test_an_atexit_handler_runs_at_unload_only_once(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    source = """
    #include "safe_call.h"
    #include "trace.h"
    static void handler1(void) { trace(1); }
    static void handler2(void) { trace(2); atexit(handler1); }
    EXPORT(add_handlers) { RETURN(atexit(handler1) + atexit(handler2)); }
    """
    path = compile(source)
    loads: list[Callable[[], tvm_ffi.Module]] = [
        lambda: session.load(path).module,
        lambda: compile.dlopen(path),
    ]
    for load in loads:
        module = load()
        for _ in range(2):
            assert module.add_handlers() == 0
        assert trace.take() == []
        del module
        gc.collect()
        assert trace.take() == [2, 1, 1, 2, 1, 1]


def test_an_atexit_handler_of_a_kept_dylib_runs_at_process_exit_as_dlopened(
    compile: Compiler, tmp_path: Path
) -> None:
    """A dylib that nobody drops is unloaded when the process ends, or not at all, but in peace."""
    source = """
    #include "safe_call.h"
    #include <stdlib.h>
    #include <unistd.h>
    static void handler(void) { (void)!write(1, "handler\\n", 8); }
    EXPORT(add_handler) { RETURN(atexit(handler)); }
    """
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, tvm_ffi\nimport tvm_ffi_object_loader\n"
        "module = tvm_ffi.load_module(sys.argv[1])\n"
        "print(module.add_handler(), flush=True)\n"
    )
    path = compile(source)
    outputs = []
    for loadable in (path, compile.link(path)):
        result = subprocess.run(
            [sys.executable, str(script), str(loadable)], capture_output=True, text=True
        )
        assert (result.returncode, result.stderr) == (0, "")
        outputs.append(result.stdout)
    assert outputs[0] == outputs[1] == "0\nhandler\n"


def test_static_destructors_of_function_locals_run_in_reverse(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    source = """
    #include "safe_call.h"
    #include "trace.h"
    struct Traced { int id; Traced(int i) : id(i) { trace(i); } ~Traced() { trace(-id); } };
    EXPORT(one) { static Traced object(1); RETURN(object.id); }
    EXPORT(two) { static Traced object(2); RETURN(object.id); }
    EXPORT(three) { static Traced object(3); RETURN(object.id); }
    """
    dylib = session.load(compile.cxx(source))
    for name in ("two", "three", "two", "one"):
        dylib[name]()
    dylib.close()
    assert trace.take() == [2, 3, 1, -1, -3, -2]
