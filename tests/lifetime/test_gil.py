# SPDX-License-Identifier: Apache-2.0
"""Linking and initializers leave the interpreter to other threads."""

from __future__ import annotations

import ctypes
import sys
import threading
import time

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript


def test_linking_releases_the_gil(session: tol.Session, compile: Compiler) -> None:
    source = "".join(
        f"int data_{n} = {n};\nint f_{n}(void) {{ return data_{n}; }}\n" for n in range(500)
    )
    content = compile(source, "-O0", "-fPIC").read_bytes()
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0)

    ticker = threading.Thread(target=tick)
    interval = sys.getswitchinterval()
    # Nobody is made to give up the interpreter, so the ticker runs only where it is given up.
    sys.setswitchinterval(1000)
    try:
        ticker.start()
        for _ in range(100):
            before = ticks
            session.load(content)
            if ticks > before:
                break
        else:
            pytest.fail("no other thread ran during 100 loads")
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        ticker.join()


WAITS = """
#include "safe_call.h"
#include <stdlib.h>
#include <unistd.h>
static int64_t seen;
__attribute__((constructor)) static void init(void) {
  volatile int64_t* flag = (int64_t*)strtoull(getenv("OBJECT_FLAG"), 0, 10);
  flag[0] = 1;
  for (int i = 0; i < 30000 && !flag[1]; ++i) usleep(1000);
  seen = flag[1];
}
EXPORT(seen) { RETURN(seen); }
"""


def test_initializers_run_without_the_gil(
    session: tol.Session, compile: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = (ctypes.c_int64 * 2)()
    monkeypatch.setenv("OBJECT_FLAG", str(ctypes.addressof(flag)))

    def answer() -> None:
        while not flag[0]:
            time.sleep(0.001)
        flag[1] = 1

    answerer = threading.Thread(target=answer)
    answerer.start()
    dylib = session.load(compile(WAITS))
    flag[0] = 1
    answerer.join()
    assert dylib["seen"]() == 1


CALLS_PYTHON = """
import gc, sys, threading
import tvm_ffi
import tvm_ffi_object_loader as tol

calls = []
tvm_ffi.register_global_func("testing.from_initializer", lambda: calls.append(1))
session = tol.Session()


def work():
    for _ in range(20):
        dylib = session.load(sys.argv[1])
        gc.collect()
        assert dylib["called"]() == 1


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(calls))
"""


def test_initializers_that_call_python_do_not_deadlock(
    compile: Compiler, run_script: RunScript
) -> None:
    source = """
    #include "safe_call.h"
    static int64_t called;
    __attribute__((constructor)) static void init(void) {
      TVMFFIByteArray name = {"testing.from_initializer", 24};
      TVMFFIObjectHandle function;
      TVMFFIAny result = {0};
      if (TVMFFIFunctionGetGlobal(&name, &function) || !function) return;
      called = TVMFFIFunctionCall(function, 0, 0, &result) == 0;
      TVMFFIObjectDecRef(function);
    }
    EXPORT(called) { RETURN(called); }
    """
    assert run_script(CALLS_PYTHON, compile(source), timeout=120) == "80\n"


# Its destructor waits for a thread that needs the interpreter. The function is dropped while it is
# being called, and what is thrown then lets go of the code.
WAITS_AT_UNLOAD = """
#include <tvm/ffi/function.h>

#include <cstdlib>
#include <stdexcept>

#include <unistd.h>
namespace ffi = tvm::ffi;
static volatile int64_t* flag;
struct AtUnload {
  ~AtUnload() {
    flag[0] = 1;
    for (int i = 0; i < 5000 && !flag[1]; ++i) usleep(1000);
    flag[2] = flag[1];
  }
};
static AtUnload at_unload;
ffi::Function Make(int64_t address) {
  flag = (volatile int64_t*)address;
  return ffi::Function::FromTyped([]() {
    ffi::Function::GetGlobalRequired("testing.let_go")();
    throw std::runtime_error("thrown");
  });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(make, Make);
"""
CALLS = """
#include <tvm/ffi/function.h>

#include <stdexcept>
namespace ffi = tvm::ffi;
static ffi::Function held;
void Hold(ffi::Function function) { held = std::move(function); }
void LetGo() { held = ffi::Function(); }
int64_t Call() {
  const ffi::Function& function = held;
  try {
    function();
  } catch (const std::runtime_error&) {
    return 1;
  }
  return 0;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(hold, Hold);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(let_go, LetGo);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(call, Call);
"""


def test_code_that_is_let_go_of_in_a_call_is_unloaded_without_the_gil(
    session: tol.Session, compile: Compiler
) -> None:
    flag = (ctypes.c_int64 * 3)()
    caller = session.load(compile.cxx(CALLS))
    dylib = session.load(compile.cxx(WAITS_AT_UNLOAD))
    caller["hold"](dylib["make"](ctypes.addressof(flag)))

    def let_go() -> None:
        dylib.close()
        caller["let_go"]()

    def answer() -> None:
        while not flag[0]:
            time.sleep(0.001)
        flag[1] = 1

    tvm_ffi.register_global_func("testing.let_go", let_go, override=True)
    answerer = threading.Thread(target=answer)
    answerer.start()
    call = caller["call"]
    call.release_gil = False
    try:
        assert call() == 1
    finally:
        flag[0] = 1
        answerer.join()
        tvm_ffi.register_global_func("testing.let_go", lambda: None, override=True)
    assert flag[2] == 1
