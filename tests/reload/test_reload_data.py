# SPDX-License-Identifier: Apache-2.0
"""`Dylib.reload(keep_data=…)`: which variables go on with their values, and which must not."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler

DATA = """
#include "safe_call.h"
int64_t counter = NUMBER;
int64_t zeros[1000];
char text[4] = "abc";
int64_t grown[NUMBER];
const int64_t constant = NUMBER;
const char* message = "a constant of version NUMBER";
int64_t* to_counter = &counter;
int64_t (*function)(void);
void* heap;
static int64_t hidden_from_all = NUMBER;
__attribute__((visibility("hidden"))) int64_t hidden = NUMBER;
__thread int64_t of_thread = NUMBER;
__attribute__((constructor)) static void init(void) { zeros[999] = NUMBER; }
int64_t get(void) { return NUMBER; }
EXPORT(get) { RETURN(get() + 0 * hidden_from_all); }
EXPORT(set) { function = get; heap = &args; hidden = 70; of_thread = 80; RETURN(0); }
EXPORT(hidden) { RETURN(hidden); }
EXPORT(of_thread) { RETURN(of_thread); }
#if NUMBER == 2
int64_t added = 5;
#endif
"""


def data(compile: Compiler, number: int) -> Path:
    return compile(DATA, "-O1", "-fPIC", f"-DNUMBER={number}", name=f"data{number}")


def value(dylib: tol.Dylib, symbol: str, index: int = 0) -> int:
    return int(ctypes.c_int64.from_address(dylib.lookup(symbol) + 8 * index).value)


def put(dylib: tol.Dylib, symbol: str, value: int, index: int = 0) -> None:
    ctypes.c_int64.from_address(dylib.lookup(symbol) + 8 * index).value = value


@pytest.fixture
def dylib(session: tol.Session, compile: Compiler) -> tol.Dylib:
    dylib = session.load(data(compile, 1), name="kernels")
    dylib["set"]()
    put(dylib, "counter", 10)
    put(dylib, "zeros", 20, 0)
    put(dylib, "zeros", 30, 999)
    ctypes.memmove(dylib.lookup("text"), b"xyz", 3)
    return dylib


def test_data_start_fresh(dylib: tol.Dylib, compile: Compiler) -> None:
    dylib.reload(data(compile, 2))
    assert (value(dylib, "counter"), value(dylib, "zeros"), value(dylib, "zeros", 999)) == (2, 0, 2)
    assert (dylib["hidden"](), dylib["of_thread"]()) == (2, 2)


def test_all_that_can_be_is_kept(dylib: tol.Dylib, compile: Compiler) -> None:
    dylib.reload(data(compile, 2), keep_data=True)
    assert (value(dylib, "counter"), value(dylib, "zeros"), value(dylib, "zeros", 999)) == (
        10,
        20,
        30,
    )
    assert ctypes.string_at(dylib.lookup("text"), 4) == b"xyz\0"
    assert dylib["hidden"]() == 70
    assert value(dylib, "heap") != 0  # it points to no memory of the version that went
    # What has another meaning in the next version is that one's own.
    assert (value(dylib, "constant"), value(dylib, "added"), dylib["of_thread"]()) == (2, 5, 2)
    assert value(dylib, "function") == 0
    assert value(dylib, "to_counter") == dylib.lookup("counter")
    message = ctypes.string_at(ctypes.c_void_p.from_address(dylib.lookup("message")).value or 0)
    assert message == b"a constant of version NUMBER"
    assert (value(dylib, "grown"), value(dylib, "grown", 1)) == (0, 0)


def test_names_are_kept_and_nothing_else(dylib: tol.Dylib, compile: Compiler) -> None:
    dylib.reload(data(compile, 2), keep_data=["counter", "hidden"])
    assert (value(dylib, "counter"), value(dylib, "zeros"), dylib["hidden"]()) == (10, 0, 70)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent", "is no variable of the version that is loaded"),
        ("added", "is no variable of the version that is loaded"),
        ("constant", "is no variable"),
        ("get", "is no variable"),
        ("hidden_from_all", "is no variable"),
        ("of_thread", "is no variable"),
        ("grown", "has another size in the new version"),
        ("message", "points into the code or data that is to go"),
        ("to_counter", "points into the code or data that is to go"),
        ("function", "points into the code or data that is to go"),
        ("__tvm_ffi_get", "is tvm-ffi's"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    dylib: tol.Dylib, compile: Compiler, name: str, why: str
) -> None:
    with pytest.raises(tol.LinkError, match=rf"'kernels' was not reloaded.*: {name} {why}"):
        dylib.reload(data(compile, 2), keep_data=["counter", name])
    assert (dylib["get"](), value(dylib, "counter")) == (1, 10)
    dylib.reload(data(compile, 2), keep_data=["counter"])
    assert (dylib["get"](), value(dylib, "counter")) == (2, 10)


def test_all_names_that_cannot_be_kept_are_named(dylib: tol.Dylib, compile: Compiler) -> None:
    with pytest.raises(tol.LinkError, match=r"absent is no variable.*; grown has another size"):
        dylib.reload(data(compile, 2), keep_data=iter(["absent", "grown"]))


def test_objects_of_classes(session: tol.Session, compile: Compiler) -> None:
    source = """
#include <tvm/ffi/function.h>
#include <string>
#include <vector>
std::vector<int64_t> numbers(1000, NUMBER);
std::string text = "a text of " + std::to_string(NUMBER);
struct Pair { Pair(int64_t n) : first(n), second(n) {} int64_t first, second; };
Pair pair(NUMBER);
inline int64_t& counter() { static int64_t count = numbers[0] + 100; return count; }
inline std::string& lazy() { static std::string text(100, 'a' + NUMBER); return text; }
int64_t count() { return counter()++; }
int64_t size() { return lazy().size() + numbers.size() + text.size() + lazy()[99]; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(count, count);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(size, size);
"""
    first, second = (
        compile.cxx(source, "-O1", "-fPIC", "-fno-gnu-unique", f"-DNUMBER={number}")
        for number in (1, 2)
    )
    dylib = session.load(first)
    sizes = dylib["size"]()
    assert (dylib["count"](), dylib["count"]()) == (101, 102)
    put(dylib, "pair", 50, 1)
    with pytest.raises(tol.LinkError, match="numbers has a destructor"):
        dylib.reload(second, keep_data=["numbers"])
    dylib.reload(second, keep_data=True)
    # The static local goes on, with what tells that it was initialized.
    assert (dylib["count"](), dylib["count"]()) == (103, 104)
    assert (value(dylib, "pair"), value(dylib, "pair", 1)) == (1, 50)
    assert dylib["size"]() == sizes + 1
    dylib.reload(first, keep_data=["pair"])
    assert (dylib["count"](), value(dylib, "pair", 1)) == (101, 50)


def test_the_values_are_those_at_the_switch(
    session: tol.Session, compile: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An initializer of the next version that calls the version before is seen."""
    source = """
#include "safe_call.h"
#include <stdlib.h>
int64_t counter = 0;
EXPORT(count) { RETURN(++counter); }
__attribute__((constructor)) static void init(void) {
  TVMFFIAny result = {0};
  const char* function = getenv("OBJECT_TO_CALL");
  if (function) TVMFFIFunctionCall((void*)strtoull(function, 0, 10), 0, 0, &result);
}
"""
    path = compile(source)
    dylib = session.load(path)
    count = dylib["count"]
    assert count() == 1
    monkeypatch.setenv("OBJECT_TO_CALL", str(count.__chandle__()))
    dylib.reload(path, keep_data=["counter"])
    assert count() == 3
