# SPDX-License-Identifier: Apache-2.0
"""Functions that choose their implementation when they are loaded (IFUNC)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain
from conftest import Trace
from refusal import Refusal

CHOICE = """
#include "safe_call.h"
#include "trace.h"
typedef int64_t (*Function)(int64_t);
static int64_t twice(int64_t x) { return 2 * x; }
static int64_t thrice(int64_t x) { return 3 * x; }
static int choice = CHOICE;
static Function choose(void) { return choice == 3 ? thrice : twice; }
static Function choose_local(void) { return thrice; }
int64_t multiply(int64_t x) __attribute__((ifunc("choose")));
__attribute__((visibility("hidden"))) int64_t hidden(int64_t x) __attribute__((ifunc("choose")));
int64_t again(int64_t x) __attribute__((ifunc("choose")));
static int64_t local(int64_t x) __attribute__((ifunc("choose_local")));
Function pointers[] = {multiply, hidden, again, local};
static int64_t at_load;
__attribute__((constructor)) static void init(void) { trace(at_load = multiply(100)); }
EXPORT(call) {
  int64_t sum = multiply(INT(0));
  sum = sum * 100 + hidden(INT(0));
  sum = sum * 100 + again(INT(0));
  RETURN(sum * 100 + local(INT(0)));
}
EXPORT(pointer) { RETURN(pointers[INT(0)](INT(1))); }
EXPORT(same) { Function volatile f = multiply; RETURN(f == pointers[0] && f(1) == multiply(1)); }
EXPORT(at_load) { RETURN(at_load); }
"""
USER = """
#include "safe_call.h"
int64_t multiply(int64_t x);
EXPORT(use) { RETURN(multiply(INT(0)) + (multiply != 0)); }
"""


@pytest.mark.parametrize("thrice", [False, True])
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_the_chosen_implementation_is_called(
    compile: Compiler,
    session: tol.Session,
    trace: Trace,
    toolchain: Toolchain,
    level: str,
    thrice: bool,
) -> None:
    flags = (level, "-fPIC", "-DCHOICE=3" if thrice else "-DCHOICE=2")
    objects = [compile(source, *flags, toolchain=toolchain) for source in (CHOICE, USER)]
    results: list[list[int]] = []
    loads: list[Callable[[], tol.Dylib | tvm_ffi.Module]]
    loads = [lambda: session.load(objects), lambda: compile.dlopen(*objects)]
    for load in loads:
        module = load()
        assert trace.take() == [300 if thrice else 200]
        calls = [("call", 3), *(("pointer", i, 5) for i in range(4)), ("same",), ("at_load",)]
        results.append([module.get_function(str(name))(*args) for name, *args in calls])
        results[-1].append(module.get_function("use")(7))
    assert results[0] == results[1]
    assert results[0][1] == (15 if thrice else 10)


def test_it_is_chosen_when_its_own_load_comes(compile: Compiler, session: tol.Session) -> None:
    base = session.load(compile(CHOICE, "-O2", "-fPIC", "-DCHOICE=2"), name="base")
    user = session.load(compile(USER), link_order=[base])
    base.load(compile(USER))
    assert user["use"](7) == base["use"](7) == 15
    assert base.lookup("multiply") != base.lookup("again")
    base.close()
    assert user["use"](7) == 15


def test_the_symbols_are_indirect(compile: Compiler) -> None:
    symbols = subprocess.run(
        ["readelf", "-sW", compile(CHOICE, "-O2", "-fPIC", "-DCHOICE=2")],
        capture_output=True,
        text=True,
    )
    assert symbols.stdout.count(" IFUNC ") == 4


def test_a_choice_that_throws(compile: Compiler, refusal: Refusal) -> None:
    source = """
#include <stdexcept>
extern "C" {
static void* choose() { throw std::runtime_error("cannot choose"); }
void chosen() __attribute__((ifunc("choose")));
void use() { chosen(); }
}
"""
    with refusal.of(tol.LinkError, "cannot choose"):
        refusal.dylib.load(compile.cxx(source))
