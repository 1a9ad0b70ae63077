# SPDX-License-Identifier: Apache-2.0
"""C++ exceptions thrown and caught in one object, across objects, dylibs and tvm-ffi."""

from __future__ import annotations

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain

THROWN = """
#include "safe_call.h"
#include <exception>
#include <stdexcept>
#include <string>
struct Base { virtual ~Base() = default; virtual int64_t code() const { return 1; } };
struct Derived : Base {
  explicit Derived(int64_t n) : n_(n) {}
  int64_t code() const override { return n_; }
  int64_t n_;
};
extern "C" int64_t unwound;
void throw_it(int64_t which);
"""
THROWER = (
    THROWN
    + """
extern "C" { int64_t unwound = 0; }
struct Unwound { ~Unwound() { ++unwound; } };
void throw_it(int64_t which) {
  Unwound local;
  switch (which) {
    case 1: throw Derived(101);
    case 2: throw std::runtime_error("two");
    case 3: throw std::string("three");
    case 4: throw int(4);
    case 5: throw std::out_of_range("five");
    case 6: try { throw_it(2); } catch (const std::exception&) { throw; }
    case 7: throw "seven";
  }
}
EXPORT(unwound) { RETURN(unwound); }
"""
)
CATCHER = (
    THROWN
    + """
EXPORT(CATCH) {
  try {
    throw_it(INT(0));
  } catch (const Base& base) {
    RETURN(base.code());
  } catch (const std::out_of_range& error) {
    RETURN(500 + error.what()[0]);
  } catch (const std::exception& error) {
    RETURN(200 + error.what()[0]);
  } catch (const std::string& text) {
    RETURN(300 + text[0]);
  } catch (int number) {
    RETURN(400 + number);
  } catch (...) {
    RETURN(-1);
  }
  RETURN(0);
}
"""
)
EXPECTED = [0, 101, 200 + ord("t"), 300 + ord("t"), 404, 500 + ord("f"), 200 + ord("t"), -1]

FLAGS = ("-O2", "-fPIC")
per_toolchain = pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda chain: chain.name)


def caught(function: tvm_ffi.Function) -> list[int]:
    return [function(which) for which in range(8)]


def test_the_dlopened_build_gives_what_is_expected(compile: Compiler) -> None:
    module = compile.dlopen(
        compile.cxx(THROWER, *FLAGS), compile.cxx(CATCHER, *FLAGS, "-DCATCH=catch_it")
    )
    assert caught(module.get_function("catch_it")) == EXPECTED
    assert module.unwound() == 9


@per_toolchain
def test_within_one_object(session: tol.Session, compile: Compiler, toolchain: Toolchain) -> None:
    source = THROWER + CATCHER.removeprefix(THROWN)
    dylib = session.load(compile.cxx(source, *FLAGS, "-DCATCH=catch_it", toolchain=toolchain))
    assert caught(dylib["catch_it"]) == EXPECTED
    assert dylib["unwound"]() == 9


@per_toolchain
def test_across_objects_of_one_load(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    objects = [
        compile.cxx(THROWER, *FLAGS, toolchain=toolchain),
        compile.cxx(CATCHER, *FLAGS, "-DCATCH=catch_it", toolchain=toolchain),
    ]
    for order in (objects, objects[::-1]):
        dylib = session.load(order)
        assert caught(dylib["catch_it"]) == EXPECTED
        assert dylib["unwound"]() == 9


@per_toolchain
def test_across_loads_of_one_dylib(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    dylib = session.load(compile.cxx(THROWER, *FLAGS, toolchain=toolchain))
    for name in ("first", "second"):
        dylib.load(compile.cxx(CATCHER, *FLAGS, f"-DCATCH={name}", toolchain=toolchain))
        assert caught(dylib[name]) == EXPECTED


@per_toolchain
def test_across_dylibs(session: tol.Session, compile: Compiler, toolchain: Toolchain) -> None:
    base = session.load(compile.cxx(THROWER, *FLAGS, toolchain=toolchain))
    catcher = compile.cxx(CATCHER, *FLAGS, "-DCATCH=catch_it", toolchain=toolchain)
    for _ in range(3):
        assert caught(session.load(catcher, link_order=[base])["catch_it"]) == EXPECTED


def test_across_compilers(session: tol.Session, compile: Compiler) -> None:
    for first, second in zip(TOOLCHAINS, TOOLCHAINS[::-1], strict=True):
        dylib = session.load(
            [
                compile.cxx(THROWER, *FLAGS, toolchain=first),
                compile.cxx(CATCHER, *FLAGS, "-DCATCH=catch_it", toolchain=second),
            ]
        )
        assert caught(dylib["catch_it"]) == EXPECTED


def test_after_other_code_was_unloaded(session: tol.Session, compile: Compiler) -> None:
    """Unwinding finds the tables of what is loaded now, not of what was at its place before."""
    thrower = compile.cxx(THROWER, *FLAGS)
    catcher = compile.cxx(CATCHER, *FLAGS, "-DCATCH=catch_it")
    kept = session.load([catcher, thrower])
    for objects in ([thrower, catcher], [catcher, thrower]) * 20:
        assert caught(session.load(objects)["catch_it"]) == EXPECTED
        assert caught(kept["catch_it"]) == EXPECTED


def test_through_a_frame_of_c(session: tol.Session, compile: Compiler) -> None:
    through = """
    #include <stdint.h>
    void throw_it(int64_t which);
    void pass_through(int64_t which) { throw_it(which); }
    """
    outer = CATCHER.replace("throw_it(INT(0))", "pass_through(INT(0))").replace(
        "void throw_it", 'extern "C" void pass_through(int64_t);\nvoid throw_it'
    )
    objects = [
        compile.cxx(THROWER.replace("void throw_it", 'extern "C" void throw_it'), *FLAGS),
        compile(through, "-O0", "-fPIC", "-fexceptions"),
        compile.cxx(
            outer.replace("void throw_it", 'extern "C" void throw_it'), *FLAGS, "-DCATCH=catch_it"
        ),
    ]
    assert caught(session.load(objects)["catch_it"]) == EXPECTED


def test_tvm_ffi_errors_cross_dylibs(session: tol.Session, compile: Compiler) -> None:
    rich = compile("rich.cc", "-O2", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")
    first, second = session.load(rich), session.load(rich)
    dlopened = compile.dlopen(rich)
    for catcher, thrower in ((first, second), (dlopened, first), (first, dlopened)):
        raising = thrower["raise_value_error"]
        with pytest.raises(ValueError, match="bad value 5"):
            catcher["apply"](raising, 5)
        # One argument too many: the call's own TypeError, caught in C++.
        assert catcher["kind_of_error"](raising, 5) == "TypeError"
