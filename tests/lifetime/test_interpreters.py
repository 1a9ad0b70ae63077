# SPDX-License-Identifier: Apache-2.0
"""Several interpreters in a process, and several imports into one."""

from __future__ import annotations

from pathlib import Path

from compilation import Compiler
from conftest import RunScript

# Python code for a second interpreter runs in it, on this thread.
SECOND = """
import sys

try:
    import _interpreters as interpreters  # since 3.13
except ImportError:
    import _xxsubinterpreters as interpreters


def make():
    # One that takes modules which were made for one interpreter, as tvm-ffi's own.
    if sys.version_info >= (3, 13):
        return interpreters.create("legacy")
    return interpreters.create(isolated=False)


def run_in_second(source):
    made = make()
    result = interpreters.run_string(made, source)
    interpreters.destroy(made)
    return result
"""

# Waits for a thread that needs the interpreter, when it is unloaded.
WAITS = """
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <thread>
namespace {
struct Waits {
  ~Waits() {
    auto* flag = reinterpret_cast<volatile int64_t*>(strtoull(getenv("OBJECT_FLAG"), nullptr, 10));
    flag[0] = 1;
    for (int i = 0; i < 30000 && flag[1] == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    flag[2] = flag[1];
  }
} waits;
}
"""

HOLDS = """
#include <tvm/ffi/tvm_ffi.h>
#include <thread>
namespace ffi = tvm::ffi;
static ffi::Optional<ffi::Function> held = std::nullopt;
static void Hold(ffi::Function function) { held = function; }
static void DropHere() { held = std::nullopt; }
static void DropElsewhere() { std::thread([] { held = std::nullopt; }).join(); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(hold, Hold)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(drop_here, DropHere)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(drop_elsewhere, DropElsewhere)
"""

DROP = """
import ctypes, os, threading, time
import tvm_ffi_object_loader as tol

flag = (ctypes.c_int64 * 3)()
os.environ["OBJECT_FLAG"] = str(ctypes.addressof(flag))


def answer():
    while not flag[0]:
        time.sleep(0.001)
    flag[1] = 1


second = make()
session = tol.Session()
holder = session.load(sys.argv[1])
# Where the caller keeps the interpreter, a drop by itself leaves it; another thread has none.
for drop, release_gil in (("here", True), ("here", False), ("elsewhere", True)):
    flag[:] = [0, 0, 0]
    function = session.load(sys.argv[2:])["add"]
    assert function(1, 2) == 3
    holder["hold"](function)
    del function
    answerer = threading.Thread(target=answer)
    answerer.start()
    dropping = holder["drop_" + drop]
    dropping.release_gil = release_gil
    dropping()
    assert list(flag) == [1, 1, 1], (drop, release_gil, list(flag))
    answerer.join()
interpreters.destroy(second)
print("fine")
"""


def test_drops_beside_a_second_interpreter(
    compile: Compiler, add_object: Path, run_script: RunScript
) -> None:
    holds, waits = compile.cxx(HOLDS), compile.cxx(WAITS)
    assert run_script(SECOND + DROP, holds, waits, add_object) == "fine\n"


IMPORT = """
if sys.argv[1] == "after":
    import tvm_ffi_object_loader as tol
refused = '''
try:
    import tvm_ffi_object_loader
except ImportError as error:
    assert "second interpreter" in str(error), error
    assert "main interpreter" in str(error), error
else:
    raise AssertionError("imported")
'''
for _ in range(2):
    error = run_in_second(refused)
    assert error is None, error
import tvm_ffi_object_loader as tol
assert tol.load_module(sys.argv[2]).add(1, 2) == 3
print("fine")
"""


def test_a_second_interpreter_may_not_import_it(add_object: Path, run_script: RunScript) -> None:
    for when in ("after", "before"):
        assert run_script(SECOND + IMPORT, when, add_object) == "fine\n"


AGAIN = """
import importlib, sys
import tvm_ffi
import tvm_ffi_object_loader as first

path = sys.argv[1]
held = first.load_module(path).add
dylib = first.Session().load(path)


def forget():
    for name in list(sys.modules):
        if name.partition(".")[0] == "tvm_ffi_object_loader":
            del sys.modules[name]


for _ in range(3):
    forget()
    import tvm_ffi_object_loader as tol

    assert tol is not first
    assert tol.load_module(path).add(1, 2) == 3
    assert tvm_ffi.load_module(path).add(1, 2) == 3
    assert type(tvm_ffi.load_module(path).add) is type(tol.default_session().load(path)["add"])
    try:
        tol.Session().load(b"nothing")
    except tol.ObjectFormatError:
        pass
    try:
        tvm_ffi.load_module("absent.o")
    except FileNotFoundError as error:
        assert error.filename == "absent.o"
    assert held(1, 2) == 3
    assert dylib["add"](3, 4) == 7
importlib.reload(tol)
assert tol.load_module(path).add(1, 2) == 3
print("fine")
"""


def test_it_can_be_imported_again(add_object: Path, run_script: RunScript) -> None:
    assert run_script(AGAIN, add_object) == "fine\n"
