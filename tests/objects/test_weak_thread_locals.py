# SPDX-License-Identifier: Apache-2.0
"""Weak thread-local variables that nobody defines, or another object: null, or that one."""

from __future__ import annotations

import pytest

import tvm_ffi_object_loader as tol
from agreement import ARGUMENTS, agree
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain
from processors import PROCESSOR
from refusal import Refusal

pytestmark = pytest.mark.matrix

WEAK = """
#include "safe_call.h"
extern __thread int foo __attribute__((weak));
extern __thread int bar __attribute__((weak));
static __thread int own = 5;
EXPORT(run) {
  int* volatile p = &foo;
  int* volatile q = &bar;
  int* volatile mine = &own;
  RETURN((p != 0) + 2 * (q != 0) + 4 * (mine == 0) + (p ? *p * 10 : 0) + (q ? *q * 1000 : 0));
}
EXPORT(folded) { RETURN(&foo ? 1 : 0); }
"""
WEAK_ONLY = """
#include "safe_call.h"
extern _Thread_local int foo __attribute__((weak));
EXPORT(run) { RETURN(&foo ? 1 : 0); }
"""
WEAK_IN_CXX = """
#include "safe_call.h"
extern thread_local int foo __attribute__((weak));
EXPORT(run) {
  int* volatile p = &foo;
  RETURN(p ? 1 + *p * 10 : 0);
}
"""
# General dynamic accesses and descriptors can say that a variable is not there.
NULLABLE = {
    "general dynamic": ("-fPIC",),
    "descriptors": ("-fPIC", PROCESSOR.descriptors),
    "no PLT": ("-fPIC", "-fno-plt"),
    "large": ("-fPIC", "-mcmodel=large"),
}


@pytest.mark.parametrize("model", NULLABLE)
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_a_weak_thread_local_variable_that_is_nowhere(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, level: str, model: str
) -> None:
    path = compile(WEAK, level, *NULLABLE[model], toolchain=toolchain)
    dylib = session.load(path)
    assert dylib["run"](0) == 0
    if toolchain is GCC:  # clang takes it for granted that such a variable is there
        assert dylib["folded"](0) == 0
    path = compile(WEAK_ONLY, level, *NULLABLE[model], toolchain=toolchain)
    assert session.load(path)["run"](0) in ((0,) if toolchain is GCC else (0, 1))
    path = compile.cxx(WEAK_IN_CXX, level, *NULLABLE[model], toolchain=toolchain)
    assert session.load(path)["run"](0) == 0


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_descriptors_of_what_is_nowhere_are_the_linkers(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    path = compile(WEAK, "-O2", "-fPIC", PROCESSOR.descriptors, toolchain=toolchain)
    assert agree(session, compile, [path]) == [0, 0, 0]


DEFINES = """
#include "safe_call.h"
_Thread_local int NAME = 7;
EXPORT(NAME) { RETURN(++NAME); }
"""


@pytest.mark.parametrize("model", [*NULLABLE, "initial exec"])
@pytest.mark.parametrize("where", ["together", "before", "link order", "library"])
def test_a_weak_thread_local_variable_that_is_somewhere(
    session: tol.Session, compile: Compiler, where: str, model: str
) -> None:
    flags = NULLABLE.get(model, ("-fPIC", "-ftls-model=initial-exec"))
    user = compile(WEAK, "-O2", *flags)
    foo = compile(DEFINES, "-O2", "-fPIC", "-DNAME=foo")
    bar = compile(DEFINES, "-O2", "-fPIC", "-DNAME=bar")
    expected = 3 + 70 + 7000
    if where == "together":
        assert agree(session, compile, [user, foo, bar]) == [expected] * 3
        return
    if where == "before":
        dylib = session.load([foo, bar])
        dylib.load(user)
    elif where == "link order":
        base = session.load([foo, bar])
        dylib = session.load(user, link_order=[base])
    else:
        if model == "initial exec":
            pytest.skip("libraries opened later have no static place")
        dylib = session.load([user, compile.link(foo, bar)])
    assert dylib["run"](0) == expected


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
@pytest.mark.parametrize("model", NULLABLE)
def test_one_of_two_weak_thread_local_variables_is_there(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, model: str
) -> None:
    user = compile(WEAK, "-O2", *NULLABLE[model], toolchain=toolchain)
    bar = compile(DEFINES, "-O2", "-fPIC", "-DNAME=bar")
    dylib = session.load([user, bar])
    assert dylib["run"](0) == 2 + 7000
    assert dylib["bar"](0) == 8
    assert dylib["run"](0) == 2 + 8000


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
@pytest.mark.parametrize("flags", [("-fPIC", "-ftls-model=initial-exec"), ("-fPIE",)])
def test_other_models_of_what_is_nowhere(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, flags: tuple[str, ...]
) -> None:
    # The linked library has some address there, since null cannot be said; nothing may use it.
    guarded = WEAK_ONLY.replace("&foo ? 1 : 0", "INT(0) > 5 ? foo : 3")
    path = compile(guarded, "-O2", *flags, toolchain=toolchain)
    said = ""
    try:
        loaded = session.load(path)
    except tol.LinkError as error:
        said = str(error)
    if said:
        assert "foo" in said
        assert "-fPIC" in said
    else:
        expected = compile.dlopen(path)
        assert [loaded["run"](n) for n in ARGUMENTS] == [expected.run(n) for n in ARGUMENTS]


def test_a_strong_reference_beside_a_weak_one(refusal: Refusal, compile: Compiler) -> None:
    strong = compile("extern _Thread_local int foo;\nint use(void) { return foo; }\n")
    with refusal.of(tol.UndefinedSymbolError, "foo") as caught:
        refusal.dylib.load([compile(WEAK), strong])
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert caught.value.symbols == ("foo",)
