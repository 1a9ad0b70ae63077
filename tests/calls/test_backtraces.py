# SPDX-License-Identifier: Apache-2.0
"""Tracebacks of errors have the functions of loaded code in them, as those of a linked library."""

from __future__ import annotations

import gc
import re
import threading
from pathlib import Path
from typing import Any, cast

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript
from instances import matrix_but

SOURCE = """
#include <pthread.h>
#include <tvm/ffi/tvm_ffi.h>
#include <stdexcept>
namespace ffi = tvm::ffi;
#define KEPT __attribute__((noinline, noclone))
#define AFTER(CALL) int64_t value = CALL; asm volatile("" ::: "memory"); return value + 1
namespace user {
// With a part that the compiler splits off, where it is taken for unlikely.
KEPT int64_t Deepest(int64_t n) {
  if (n > 0) TVM_FFI_THROW(ValueError) << "bad " << n;
  return n;
}
KEPT int64_t Middle(int64_t n) { AFTER(Deepest(n)); }
static KEPT int64_t Static(int64_t n) { AFTER(Middle(n)); }
struct Class { KEPT int64_t Method(int64_t n) { AFTER(Static(n)); } };
template <typename T> KEPT int64_t Template(T n) { AFTER(Class().Method(n)); }
namespace { KEPT int64_t Anonymous(int64_t n) { AFTER(Template(n)); } }
__attribute__((cold)) KEPT static int64_t Unlikely(int64_t n) { AFTER(Anonymous(n)); }
KEPT int64_t Likely(int64_t n) {
  if (__builtin_expect(n > 1000, 0)) { AFTER(Unlikely(n)); }
  return n;
}
int64_t Raise(int64_t n) { AFTER(Unlikely(n)); }
int64_t RaiseByCold(int64_t n) { AFTER(Likely(n + 1000)); }
KEPT int64_t Recurse(int64_t n, int64_t depth) {
  if (depth == 0) return Middle(n);
  AFTER(Recurse(n, depth - 1));
}
int64_t Through(ffi::Function function, int64_t n) { AFTER(function(n).cast<int64_t>()); }
int64_t ByLibrary(int64_t) { return ffi::TypedFunction<int64_t(ffi::String)>(
    ffi::Function::GetGlobalRequired("ffi.StructuralKeyHash"))("no such object"); }
int64_t ByInterface(int64_t) {
  TVMFFIByteArray text = {"nonsense", 8};
  DLDataType type;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIDataTypeFromString(&text, &type));
  return type.bits;
}
int64_t Standard(int64_t n) { throw std::runtime_error("standard"); }
int64_t Catches(ffi::Function function, int64_t n) {
  try {
    return function(n).cast<int64_t>();
  } catch (const ffi::Error& error) {
    throw;
  }
}
}
extern "C" {
static KEPT int Fail() { TVMFFIErrorSetRaisedFromCStr("KeyError", "of C"); return -1; }
static KEPT int FailInParts() {
  const char* parts[] = {"of ", "C"};
  TVMFFIErrorSetRaisedFromCStrParts("IndexError", parts, 2);
  asm volatile("" ::: "memory");
  return -1;
}
int __tvm_ffi_fail(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) {
  int code = Fail();
  asm volatile("" ::: "memory");
  return code;
}
int __tvm_ffi_fail_in_parts(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) {
  int code = FailInParts();
  asm volatile("" ::: "memory");
  return code;
}
int __tvm_ffi_call(void*, const TVMFFIAny* args, int32_t, TVMFFIAny* result) {
  int code = TVMFFIFunctionCall(args[0].v_obj, (TVMFFIAny*)&args[1], 1, result);
  asm volatile("" ::: "memory");
  return code;
}
static void* Run(void* function) {
  TVMFFIAny result = {};
  TVMFFIObjectHandle error;
  TVMFFIFunctionCall(function, nullptr, 0, &result);
  TVMFFIErrorMoveFromRaised(&error);
  return error;
}
int __tvm_ffi_in_thread(void*, const TVMFFIAny* args, int32_t, TVMFFIAny*) {
  pthread_t thread;
  void* error;
  pthread_create(&thread, nullptr, Run, args[0].v_obj);
  pthread_join(thread, &error);
  TVMFFIErrorSetRaised(error);
  TVMFFIObjectDecRef(error);
  return -1;
}
}
int64_t Recursive(int64_t n) { return user::Recurse(n, 20); }
ffi::Function Make() {
  return ffi::Function::FromTyped([](int64_t n) { AFTER(user::Unlikely(n)); });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(make, Make);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(raise, user::Raise);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(raise_by_cold, user::RaiseByCold);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(recurse, Recursive);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(through, user::Through);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(catches, user::Catches);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(by_library, user::ByLibrary);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(by_interface, user::ByInterface);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(standard, user::Standard);
"""
# Libraries are opened first: tvm-ffi knows no functions of those that come after the first error.
SCRIPT = """
import gc, sys, traceback
import tvm_ffi
import tvm_ffi_object_loader as tol

def open_one(path):
    if path.endswith(".so"):
        return tvm_ffi.load_module(path).get_function
    dylib = tol.Session().load(path)
    return dylib.get_function

one, other = map(open_one, sys.argv[1:3])

def plain(function):
    # As tvm-ffi's own functions are called.
    return tvm_ffi.convert([function])[0]

def show(call):
    try:
        call()
    except Exception as error:
        text = traceback.format_exc()
        del error
        gc.collect()
        print(text)
        return
    print("nothing was raised")
"""


@pytest.fixture(scope="module")
def source(compile: Compiler) -> Path:
    return compile.cxx(SOURCE, "-O2", "-fPIC", name="backtraces")


def frames(output: str) -> list[str]:
    """The functions and what was raised."""
    pattern = r'^  File "[^"]*", line \d+, in (.*)$|^(\w+Error: .*)$'
    # Of two names at one address tvm-ffi gives either.
    text = without_extension(output).replace(" [clone .localalias]", "")
    return [function or raised for function, raised in re.findall(pattern, text, re.MULTILINE)]


def without_extension(text: str) -> str:
    """Leave out the extension's own functions, which have names where it was not stripped."""
    return re.sub(
        r'(?m)^  File "[^"]*", line \d+, in (.* )?(object_loader|nanobind)::.*\n', "", text
    )


CALLS = {
    "throws": "show(lambda: one('raise')(3))",
    "in a part split off": "show(lambda: one('raise_by_cold')(3))",
    "through recursion": "show(lambda: one('recurse')(3))",
    "more than there is room for": "show(lambda: one('recurse')(3))",
    "a function without a fast call": "show(lambda: plain(one('raise'))(3))",
    "standard exception": "show(lambda: one('standard')(3))",
    "from C": "show(lambda: one('fail')())",
    "from C, in parts": "show(lambda: one('fail_in_parts')())",
    "from C, in a thread of its own": "show(lambda: one('in_thread')(other('fail')))",
    "through another's": "show(lambda: one('through')(other('raise'), 3))",
    "through two": "show(lambda: one('catches')(other('catches'), 3))",
    "through C": "show(lambda: one('call')(other('raise'), 3))",
    "from tvm-ffi's interface": "show(lambda: one('by_interface')(3))",
    "from tvm-ffi's function": "show(lambda: one('by_library')(3))",
    "from Python": "show(lambda: one('through')(lambda n: [][n], 3))",
    "from Python, through C": "show(lambda: one('call')(lambda n: [][n], 3))",
    "from Python, through another's": (
        "show(lambda: one('through')(lambda n: other('through')(lambda n: [][n], n), 3))"
    ),
    "through Python": "show(lambda: one('through')(lambda n: other('raise')(n), 3))",
    "through Python twice": (
        "show(lambda: one('catches')(lambda n: other('through')(lambda n: one('raise')(n), n), 3))"
    ),
    "a function that another's is given": (
        "show(lambda: one('through')(tvm_ffi.convert(lambda n: other('raise')(n)), 3))"
    ),
}


@pytest.mark.parametrize("call", matrix_but(CALLS, "throws", "through Python"))
def test_functions_of_a_linked_library_and_of_loaded_code(
    compile: Compiler, source: Path, run_script: RunScript, call: str
) -> None:
    library = compile.link(source)
    limit = {"TVM_TRACEBACK_LIMIT": "7"} if "room" in call else {}
    expected = run_script(SCRIPT + CALLS[call], library, compile.link(source), **limit)
    assert "Error" in expected
    for pair in ((source, source), (library, source), (source, library)):
        assert frames(run_script(SCRIPT + CALLS[call], *pair, **limit)) == frames(expected)


def backtrace(function: Any) -> str:
    """What tvm-ffi was told of an error that is gone."""
    try:
        function(3)
    except ValueError as error:
        text: str = cast(Any, error).__tvm_ffi_error__.backtrace
        return text
    raise AssertionError("nothing was raised")


def test_code_that_outlives_its_dylib(source: Path, session: tol.Session) -> None:
    dylib = session.load(source)
    function = dylib["make"]()
    expected = backtrace(function)
    assert "in user::Class::Method(long)\n" in expected
    dylib.close()
    assert backtrace(function) == expected
    del function, dylib
    gc.collect()
    assert session.stats().bytes_code == 0
    assert "in user::Class::Method(long)\n" in expected  # it is a text of its own


@pytest.mark.slow
def test_several_loads_of_a_dylib(compile: Compiler, source: Path, session: tol.Session) -> None:
    """Each function has the name that it has in its own object."""
    names = ["first", "second", "third"]
    dylib = session.create_dylib()
    for name in names:
        text = """
        #include <tvm/ffi/tvm_ffi.h>
        static __attribute__((noinline, noclone)) int64_t static_NAME(int64_t n) {
          if (n > 0) TVM_FFI_THROW(ValueError) << "bad";
          return n;
        }
        __attribute__((noinline)) static int64_t middle_NAME(int64_t n) {
          return static_NAME(n) + 1;
        }
        int64_t outer_NAME(int64_t n) { return middle_NAME(n) + 1; }
        TVM_FFI_DLL_EXPORT_TYPED_FUNC(NAME, outer_NAME);
        """
        dylib.load(compile.cxx(text.replace("NAME", name), "-O2", "-fPIC", "-fno-ipa-icf"))
    for name in names:
        functions = re.findall(r", in (.*)", without_extension(backtrace(dylib[name])))
        expected = ["int64_t static_@(int64_t)", "middle_@(long)", "outer_@(long)", "__tvm_ffi_@"]
        assert functions == [function.replace("@", name) for function in expected]


def test_many_threads_at_a_time(source: Path, session: tol.Session) -> None:
    dylib = session.load(source)
    function = dylib["raise"]
    seen: list[set[str]] = []

    def of_loaded_code() -> str:
        # What called it is another in each thread, where tvm-ffi does not know it for Python.
        text, name, _ = backtrace(function).partition(", in __tvm_ffi_raise\n")
        assert name
        return text

    def run() -> None:
        seen.append({of_loaded_code() for _ in range(200)})

    expected = of_loaded_code()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        backtrace(session.load(source)["raise"])
    for thread in threads:
        thread.join()
    assert seen == [{expected}] * 8
