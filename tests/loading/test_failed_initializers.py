# SPDX-License-Identifier: Apache-2.0
"""A load fails after its code has run: what it gave away stays usable, all else is undone."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import ADD, RunScript, Trace

# Constructors run one after the other; the last one throws.
START = """
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/ffi/string.h>

#include <stdexcept>
#include <string>
#include <thread>

#include "trace.h"
namespace ffi = tvm::ffi;
struct Static {
  std::string text = "a string that is too long to be a value";
  Static() { trace(1); }
  ~Static() { trace(-1); }
};
static Static object;
static ffi::String Text(int64_t n) { return object.text + " " + std::to_string(n); }
static int64_t Add(int64_t a, int64_t b) { return a + b + (int64_t)object.text.size(); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(failed_add, Add);
__attribute__((destructor)) static void never() { trace(-2); }
"""
END = """
struct Thrower { Thrower() { throw std::runtime_error("no such device"); } };
static Thrower thrower;
"""
REGISTERS = """
static int registered = (ffi::Function::SetGlobal(
    "testing.failed.text", ffi::Function::FromTyped(Text), true), 0);
"""
TEXT = "a string that is too long to be a value 5"


def refuse(load: Callable[[Path], object], path: Path, message: str = "no such device") -> None:
    with pytest.raises(tol.LinkError, match=f"an initializer threw: {message}"):
        load(path)
    gc.collect()


def forget_global(name: str) -> None:
    tvm_ffi.register_global_func(name, lambda: None, override=True)
    gc.collect()


@pytest.fixture(scope="module")
def registers(compile: Compiler) -> Path:
    return compile.cxx(START + REGISTERS + END, "-O1", "-fPIC")


@pytest.mark.parametrize("how", ["open", "closed", "dropped", "session closed"])
def test_a_registered_function_stays_usable(
    registers: Path, add_object: Path, session: tol.Session, trace: Trace, how: str
) -> None:
    dylib = session.load(add_object)
    before = session.stats()
    refuse(dylib.load, registers)
    assert dylib.functions == ["add"]
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("__tvm_ffi_failed_add")
    after = session.stats()
    assert (after.objects, after.symbols) == (before.objects, before.symbols)
    assert (after.loads, after.failures) == (before.loads, before.failures + 1)
    if how == "closed":
        dylib.close()
    elif how == "session closed":
        session.close()
    if how != "open":
        del dylib
        gc.collect()
        assert session.stats().retained == 1
    # What the constructors made is whole, too.
    assert trace.take() == [1]
    assert tvm_ffi.get_global_func("testing.failed.text")(5) == TEXT
    forget_global("testing.failed.text")
    if how == "open":
        assert dylib["add"](1, 2) == 3
        assert trace.take() == []
        dylib.close()
    assert trace.take() == [-1]
    assert session.stats().retained == session.stats().bytes_code == 0


def test_a_dylib_that_the_failed_load_was_to_make(
    registers: Path, session: tol.Session, trace: Trace
) -> None:
    for _ in range(3):
        refuse(session.load, registers)
        assert session.dylibs == {}
        assert session.stats().retained == 1
        assert tvm_ffi.get_global_func("testing.failed.text")(5) == TEXT
    forget_global("testing.failed.text")
    assert trace.take().count(-1) == 3
    assert session.stats().retained == session.stats().bytes_code == 0


def test_the_same_symbols_can_be_loaded_afterwards(
    registers: Path, compile: Compiler, session: tol.Session, trace: Trace
) -> None:
    dylib = session.create_dylib()
    refuse(dylib.load, registers)
    dylib.load(compile.cxx(START, "-O1", "-fPIC"))
    assert dylib["failed_add"](1, 2) == 42
    assert tvm_ffi.get_global_func("testing.failed.text")(5) == TEXT
    dylib.close()
    assert session.stats().retained == 1
    forget_global("testing.failed.text")
    assert trace.take() == [1, 1, -2, -1, -1]


def test_a_function_that_was_looked_up_while_the_constructors_ran(
    compile: Compiler, add_object: Path, session: tol.Session, trace: Trace
) -> None:
    calls = 'static int called = (ffi::Function::GetGlobalRequired("testing.failed.look")(), 0);\n'
    path = compile.cxx(START + calls + END, "-O1", "-fPIC")
    dylib = session.create_dylib()
    found: list[Callable[..., object]] = []
    tvm_ffi.register_global_func(
        "testing.failed.look", lambda: found.append(dylib["failed_add"]), override=True
    )
    refuse(dylib.load, path)
    others = [session.load(add_object) for _ in range(200)]  # where freed memory was
    assert found[0](1, 2) == 42
    del others
    assert dylib.functions == []
    dylib.close()
    with pytest.raises(tol.SessionClosedError):
        found[0](1, 2)
    assert trace.take() == [1, -1]
    assert session.stats().bytes_code == 0
    forget_global("testing.failed.look")


@pytest.mark.parametrize("where", ["same dylib", "linked dylib"])
def test_code_that_the_constructors_loaded_against_their_own(
    compile: Compiler, add_object: Path, session: tol.Session, trace: Trace, where: str
) -> None:
    calls = 'static int called = (ffi::Function::GetGlobalRequired("testing.failed.load")(), 0);\n'
    path = compile.cxx(START + "int64_t value() { return 7; }\n" + calls + END, "-O1", "-fPIC")
    inner = compile.cxx(
        '#include "safe_call.h"\nint64_t value();\nEXPORT(inner) { RETURN(value() + INT(0)); }\n'
    )
    dylib = session.create_dylib()
    kept: list[tol.Dylib] = []

    def load() -> None:
        if where == "same dylib":
            dylib.load(inner)
            kept.append(dylib)
        else:
            kept.append(session.load(inner, link_order=[dylib]))

    tvm_ffi.register_global_func("testing.failed.load", load, override=True)
    refuse(dylib.load, path)
    others = [session.load(add_object) for _ in range(200)]  # where freed memory was
    assert kept[0]["inner"](3) == 10
    del others
    dylib.close()
    if where == "linked dylib":
        assert trace.take() == [1]
        assert kept[0]["inner"](3) == 10
    kept.clear()
    gc.collect()
    assert trace.take()[-1:] == [-1]
    assert session.stats().bytes_code == 0
    forget_global("testing.failed.load")


def test_destructors_that_are_pending_in_another_thread(
    compile: Compiler, session: tol.Session, trace: Trace
) -> None:
    source = """
static ffi::Function hold = ffi::Function::GetGlobalRequired("testing.failed.thread");
struct OfThread { int n = 5; ~OfThread() { trace(-10); } };
static thread_local OfThread of_thread;
extern "C" int touch() { return of_thread.n; }
static int started = (hold((void*)touch), of_thread.n);
"""
    path = compile.cxx(START + source + END, "-O1", "-fPIC")
    touched, end = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def hold(address: ctypes.c_void_p) -> None:
        touch = ctypes.CFUNCTYPE(ctypes.c_int)(address.value or 0)

        def run() -> None:
            touch()
            touched.set()
            end.wait(60)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        touched.wait(60)

    tvm_ffi.register_global_func("testing.failed.thread", hold, override=True)
    refuse(session.load, path)
    assert session.stats().retained == 1
    assert trace.take() == [1]
    end.set()
    threads[0].join()
    # Python has done with the thread a moment before the thread itself ends.
    seen: list[int] = []
    deadline = time.monotonic() + 60
    while -10 not in seen and time.monotonic() < deadline:
        seen += trace.take()
    assert -10 in seen
    # Its own thread's goes with the code.
    session.load(compile(ADD))["add"](1, 2)
    assert session.stats().retained == 0
    forget_global("testing.failed.thread")


def test_a_library_that_was_loaded_with_it(
    compile: Compiler, session: tol.Session, trace: Trace
) -> None:
    library = compile.link(
        compile.cxx(
            '#include "trace.h"\n'
            "int64_t library_value() { return 5; }\n"
            "__attribute__((destructor)) static void closed() { trace(-9); }\n"
        )
    )
    registers = REGISTERS.replace("FromTyped(Text)", "FromTyped(library_value)")
    path = compile.cxx(START + "int64_t library_value();\n" + registers + END, "-O1", "-fPIC")
    dylib = session.create_dylib()
    refuse(lambda path: dylib.load([path, library]), path)
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("_Z13library_valuev")
    dylib.close()
    assert tvm_ffi.get_global_func("testing.failed.text")() == 5
    assert trace.take() == [1]
    forget_global("testing.failed.text")
    assert trace.take() == [-1, -9]


def test_a_registered_class(compile: Compiler, run_script: RunScript) -> None:
    source = """
class PairObj : public ffi::Object {
 public:
  ffi::String first;
  explicit PairObj(int64_t n) : first(Text(n)) {}
  explicit PairObj(ffi::UnsafeInit) {}
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("testing.failed.Pair", PairObj, ffi::Object);
};
static int registered = (ffi::reflection::ObjectDef<PairObj>().def_ro("first", &PairObj::first), 0);
static int made = (ffi::Function::SetGlobal("testing.failed.pair", ffi::Function::FromTyped(
    [](int64_t n) { return ffi::ObjectRef(ffi::make_object<PairObj>(n)); })), 0);
"""
    path = compile.cxx(START + source + END, "-O1", "-fPIC")
    script = """
import gc, sys, tvm_ffi
import tvm_ffi_object_loader as tol
session = tol.Session()
try:
    session.load(sys.argv[1])
except tol.LinkError:
    gc.collect()
pair = tvm_ffi.get_global_func("testing.failed.pair")(5)
tvm_ffi.register_global_func("testing.failed.pair", lambda: None, override=True)
session.close()
gc.collect()
print(pair.first)
"""
    assert run_script(script, path) == TEXT + "\n"


def test_imports_that_cannot_be_rebuilt(
    compile: Compiler, session: tol.Session, trace: Trace
) -> None:
    """The constructors have run then, and the code has been told of its module."""
    source = """
extern "C" TVM_FFI_DLL_EXPORT void* __tvm_ffi__library_ctx = nullptr;
static int registered = (ffi::Function::SetGlobal(
    "testing.failed.look_up", ffi::Function::FromTyped([](ffi::String name) {
      TVMFFIObjectHandle found;
      TVM_FFI_CHECK_SAFE_CALL(
          TVMFFIEnvModLookupFromImports(__tvm_ffi__library_ctx, name.c_str(), &found));
    }), true), 0);
extern "C" TVM_FFI_DLL_EXPORT const uint64_t __tvm_ffi__library_bin[] = {24, 1ull << 40, 0, 0};
"""
    path = compile.cxx("#include <tvm/ffi/extra/c_env_api.h>\n" + START + source, "-O1", "-fPIC")
    for load in (session.create_dylib().load, session.load):
        with pytest.raises(Exception, match="library_bin is malformed"):
            load(path)
        gc.collect()
        look_up = tvm_ffi.get_global_func("testing.failed.look_up")
        with pytest.raises(Exception, match=r"missing.*hold the module"):
            look_up("missing")
        del look_up
    forget_global("testing.failed.look_up")
    assert trace.take() == [1, 1, -2, -1, -2, -1]


def test_what_was_initialized_whole_is_finalized(
    compile: Compiler, session: tol.Session, trace: Trace
) -> None:
    """As a dlopened library is, whose imports can't be rebuilt."""
    malformed = 'extern "C" TVM_FFI_DLL_EXPORT const uint64_t __tvm_ffi__library_bin[] = {8, 5};'
    path = compile.cxx(START + malformed, "-O1", "-fPIC")
    library = compile.link(path)
    for load, what in (
        (tvm_ffi.load_module, library),
        (session.load, path),
        (session.create_dylib().load, path),
        (session.load(compile(ADD)).reload, path),
    ):
        with pytest.raises(Exception, match=r"library_bin is malformed|import_tree_indptr"):
            load(str(what))
        gc.collect()
        assert trace.take() == [1, -2, -1]


@pytest.mark.slow
def test_a_thousand_failed_constructors_leave_no_memory_behind(
    compile: Compiler, run_script: RunScript, registers: Path
) -> None:
    """While other code of the dylib is needed, and also where something was registered."""
    plain = compile.cxx(START + END, "-O1", "-fPIC")
    maker = compile.cxx(
        START.replace("failed_add", "add")
        + """
ffi::Array<ffi::String> Make(int64_t n) { return {Text(n)}; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(make, Make);
""",
        "-O1",
        "-fPIC",
    )
    script = """
import os
import sys
import tvm_ffi_object_loader as tol
plain, registers, maker = (open(path, "rb").read() for path in sys.argv[1:])
session = tol.Session()
dylib = session.load(maker)
made = dylib["make"](5)

def refuse():
    for load, content in ((dylib.load, plain), (session.load, plain), (session.load, registers)):
        try:
            load(content)
        except tol.LinkError as error:
            assert "no such device" in str(error), error
        else:
            raise AssertionError("loaded")

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

for _ in range(300):
    refuse()
stats, before = session.stats(), resident()
for _ in range(1_000):
    refuse()
assert session.stats() == stats, (session.stats(), stats)
print(resident() - before)
"""
    assert int(run_script(script, plain, registers, maker)) < 1 << 20
