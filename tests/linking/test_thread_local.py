# SPDX-License-Identifier: Apache-2.0
"""Thread-local variables: every access model, threads, destructors, lifetimes."""

from __future__ import annotations

import concurrent.futures
import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain
from conftest import RunScript, Trace
from instances import matrix_but
from processors import PROCESSOR
from refusal import Refusal
from threads import Worker
from traced import OF_THREADS

VARIABLES = """
#include "safe_call.h"
static int helper(int x) { return x + 1; }
int other;
_Thread_local int counter = 5;
_Thread_local int (*pointer)(int) = helper;
static _Thread_local long zero;
static _Thread_local char many[40];
static _Thread_local int* to_other = &other;
static _Thread_local __attribute__((aligned(ALIGNMENT))) char aligned[3];
EXPORT(step) {
  counter += INT(0);
  ++zero;
  ++many[39];
  RETURN(counter * 1000 + zero * 100 + many[39] * 10 + (to_other == &other));
}
EXPORT(call) { RETURN(pointer(INT(0))); }
EXPORT(misaligned) { RETURN((uintptr_t)aligned % ALIGNMENT); }
EXPORT(where) { RETURN((intptr_t)&counter); }
""".replace("ALIGNMENT", str(PROCESSOR.static_alignment))
MODELS = {
    "general dynamic": ("-fPIC",),
    "descriptors": ("-fPIC", PROCESSOR.descriptors),
    "no PLT": ("-fPIC", "-fno-plt"),
    "local dynamic": ("-fPIC", "-ftls-model=local-dynamic"),
    "initial exec": ("-fPIC", "-ftls-model=initial-exec"),
    "local exec": ("-fpie",),
}
ONLY_HERE = {"local exec"}  # cc -shared refuses it, since it can't know where the variables will be


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Return a thread that started before anything was loaded."""
    worker = Worker()
    yield worker
    worker.end()


def steps(function: Callable[[str], tvm_ffi.Function]) -> list[int]:
    """Return what the variables of the calling thread give."""
    step = function("step")
    return [step(1), step(2), function("call")(3), function("misaligned")(0)]


@pytest.mark.parametrize("level", matrix_but(["-O0", "-O1", "-O2", "-O3"], "-O2"))
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_every_access_model(
    compile: Compiler,
    session: tol.Session,
    worker: Worker,
    toolchain: Toolchain,
    model: str,
    level: str,
) -> None:
    path = compile(VARIABLES, level, *MODELS[model], toolchain=toolchain)
    dylib = session.load(path)
    if model in ONLY_HERE:
        path = compile(VARIABLES, level, "-fPIC", toolchain=toolchain)
    expected = compile.dlopen(path)

    def both() -> list[list[int]]:
        return [steps(dylib.get_function), steps(expected.get_function)]

    later = Worker()
    expected_steps = [[6111, 8221, 4, 0]] * 2
    assert both() == worker(both) == later(both) == expected_steps
    later.end()
    assert dylib.lookup("counter") == dylib["where"](0)
    assert worker(lambda: dylib.lookup("counter") == dylib["where"](0))
    assert worker(lambda: dylib["where"](0)) != dylib["where"](0)


DEFINER = """
#include "safe_call.h"
_Thread_local int padding = 1;
_Thread_local int shared = 40;
_Thread_local int weakly __attribute__((weak)) = 2;
EXPORT(own) { RETURN(++shared); }
"""
USER = """
#include "safe_call.h"
extern _Thread_local int shared;
_Thread_local int weakly __attribute__((weak)) = 7;
_Thread_local int mine = 100;
EXPORT(use) { RETURN(++shared * 1000 + mine++); }
EXPORT(weak) { RETURN(++weakly); }
"""


@pytest.mark.parametrize("model", ["general dynamic", "descriptors", "no PLT", "initial exec"])
@pytest.mark.parametrize("together", [True, False], ids=["one load", "two loads"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_variables_are_shared_within_a_dylib(
    compile: Compiler,
    session: tol.Session,
    worker: Worker,
    toolchain: Toolchain,
    together: bool,
    model: str,
) -> None:
    objects = [
        compile(source, "-O2", *MODELS[model], toolchain=toolchain) for source in (DEFINER, USER)
    ]
    dylib = session.create_dylib()
    for load in [objects] if together else [[path] for path in objects]:
        dylib.load(load)
    expected = compile.dlopen(*objects)
    for module in (dylib, expected):

        def run(module: tol.Dylib | tvm_ffi.Module = module) -> list[int]:
            names = ["own", "use", "weak", "own", "use", "weak"]
            return [module.get_function(name)(0) for name in names]

        assert run() == worker(run) == [41, 42100, 3, 43, 44101, 4]


@pytest.mark.parametrize("model", ["general dynamic", "descriptors", "initial exec"])
def test_variables_of_another_dylib(
    compile: Compiler, session: tol.Session, worker: Worker, model: str
) -> None:
    base = session.load(compile(DEFINER), name="base")
    user = session.load(compile(USER, "-O2", *MODELS[model]), link_order=[base])

    def run() -> list[int]:
        return [base["own"](0), user["use"](0), base["own"](0)]

    assert run() == worker(run) == [41, 42100, 43]
    base.close()
    assert user["use"](0) == 44101
    assert user.lookup("shared") == base_address(user)


def base_address(user: tol.Dylib) -> int:
    """Return the address at which `shared`, whose value is known here, is found."""
    address = user.lookup("shared")
    assert ctypes.c_int.from_address(address).value == 44
    return address


@pytest.mark.parametrize("model", ["general dynamic", "descriptors", "no PLT"])
def test_variables_of_the_process(compile: Compiler, run_script: RunScript, model: str) -> None:
    library = compile.link(compile(DEFINER.replace("shared", "of_the_process")))
    user = compile(USER.replace("shared", "of_the_process"), "-O2", *MODELS[model])
    run_script(
        "import ctypes, sys, threading\n"
        "import tvm_ffi_object_loader as tol\n"
        "library = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)\n"
        "use = tol.Session().load(sys.argv[2])['use']\n"
        "value = ctypes.c_int.in_dll(library, 'of_the_process')\n"
        "assert [use(0), use(0)] == [41100, 42101] and value.value == 42\n"
        "thread = threading.Thread(target=lambda: print(use(0)))\n"
        "thread.start(); thread.join()\n",
        library,
        user,
    )


@pytest.mark.parametrize("thread_local_user", [True, False])
def test_a_variable_that_is_thread_local_for_one_side_only(
    compile: Compiler, refusal: Refusal, thread_local_user: bool
) -> None:
    definer = DEFINER if not thread_local_user else DEFINER.replace("_Thread_local", "")
    user = USER if thread_local_user else USER.replace("_Thread_local", "")
    base = refusal.session.load(compile(definer), name="base")
    with refusal.of(tol.LinkError, "shared", "base", "thread-local"):
        refusal.session.load(compile(user), link_order=[base])
    base.close()


def test_a_missing_variable(compile: Compiler, refusal: Refusal) -> None:
    with refusal.of(tol.UndefinedSymbolError, "shared") as caught:
        refusal.session.load(compile(USER))
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert caught.value.symbols == ("shared",)


def test_local_exec_without_room_is_refused(compile: Compiler, refusal: Refusal) -> None:
    source = """
#include "safe_call.h"
static _Thread_local char many[1 << 20];
EXPORT(use) { RETURN(++many[INT(0)]); }
"""
    path = compile(source, "-O2", "-fpie", name="much")
    with refusal.of(tol.LinkError, path, "thread-local", "-fPIC"):
        refusal.session.load(path)
    assert refusal.session.load(compile(source))["use"](0) == 1


@pytest.mark.parametrize("access", PROCESSOR.thread_local_accesses)
def test_what_is_not_thread_local_is_not_used_as_such(
    compile: Compiler, refusal: Refusal, access: str
) -> None:
    path = compile(f".globl use\nuse: {access}\n    ret\n", language="assembler", name="confused")
    ordinary = compile("int ordinary = 1;\n", name="ordinary")
    with refusal.of(tol.LinkError, path, "ordinary", "thread-local"):
        refusal.session.load([path, ordinary])
    base = refusal.session.load(ordinary)
    with refusal.of(tol.LinkError, path, "ordinary", "thread-local"):
        refusal.session.load(path, link_order=[base])
    base.close()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_objects_of_a_thread_that_ends(
    compile: Compiler, session: tol.Session, trace: Trace, toolchain: Toolchain, model: str
) -> None:
    path = compile.cxx(OF_THREADS, "-O2", *MODELS[model], toolchain=toolchain)
    oracle = compile.cxx(OF_THREADS, "-O2", "-fPIC", toolchain=toolchain)
    events: list[list[list[int]]] = []
    loads: list[Callable[[], tol.Dylib | tvm_ffi.Module]]
    loads = [lambda: session.load(path), lambda: compile.dlopen(oracle)]
    for load in loads:
        module = load()
        touch = module.get_function("touch")
        worker = Worker()
        assert worker(touch) == 7
        at_call = trace.take()
        worker.end()
        at_end = trace.take()
        del touch, module
        gc.collect()
        events.append([at_call, at_end, trace.take()])
    assert events[0] == events[1]
    assert events[0][1] == [-2, -1, -4]


def test_objects_of_the_thread_that_unloads(
    compile: Compiler, session: tol.Session, trace: Trace
) -> None:
    for unload in ("drop", "close"):
        dylib = session.load(compile.cxx(OF_THREADS))
        assert dylib["touch"]() == 7
        assert trace.take() == [3, 4, 1, 2]
        if unload == "close":
            dylib.close()
        del dylib
        gc.collect()
        assert trace.take() == [-2, -1, -4, -3]
        assert session.stats().bytes_code == session.stats().retained == 0


FIRST_USED_AT_UNLOAD = """
#include "safe_call.h"
#include "trace.h"
struct OfThread { int n = 3; ~OfThread() { trace(-n); } };
static int64_t use() { static thread_local OfThread of_thread; return of_thread.n; }
struct Static { ~Static() { trace(use()); } };
static Static object;
FAILS
EXPORT(run) { RETURN(1); }
"""


@pytest.mark.parametrize("fails", [False, True])
def test_an_object_that_is_made_at_unload(
    compile: Compiler, session: tol.Session, trace: Trace, fails: bool
) -> None:
    throws = "-DFAILS=static int thrown = (throw 1, 0);" if fails else "-DFAILS="
    content = compile.cxx(FIRST_USED_AT_UNLOAD, "-O1", "-fPIC", throws).read_bytes()

    def load_and_unload() -> list[int]:
        if fails:
            with pytest.raises(tol.LinkError, match="an initializer threw"):
                session.load(content)
        else:
            session.load(content).close()
        return trace.take()

    # In a thread that ends, where what is left would be destroyed.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        assert thread.submit(load_and_unload).result() == [3, -3]
    gc.collect()
    assert trace.take() == []
    assert session.stats().bytes_code == session.stats().retained == 0


@pytest.mark.parametrize("unload", ["drop", "close", "close the session"])
def test_code_stays_for_the_objects_of_other_threads(
    compile: Compiler, session: tol.Session, trace: Trace, worker: Worker, unload: str
) -> None:
    dylib = session.load(compile.cxx(OF_THREADS), name="objects")
    held = dylib["touch"]
    touch = dylib.get_function("touch")
    assert worker(touch) == held() == 7
    trace.take()
    if unload == "close":
        dylib.close()
    elif unload == "close the session":
        session.close()
    else:
        del held
    del dylib, touch
    gc.collect()
    assert trace.take() == []
    assert session.stats().retained == 1
    assert session.stats().bytes_code > 0
    assert "objects" not in session.dylibs
    if unload != "drop":
        with pytest.raises(tol.SessionClosedError):
            held()
    worker.end()
    assert trace.take() == [-2, -1, -4]
    # This thread has objects of its own; they go when it next does something with the session.
    if unload == "close the session":
        session.close()
    else:
        session.load(compile.cxx("int nothing;\n"))
    assert trace.take() == [-2, -1, -4, -3]
    assert session.stats().retained == 0


def test_a_name_is_free_while_code_stays(
    compile: Compiler, session: tol.Session, worker: Worker
) -> None:
    for _ in range(3):
        dylib = session.load(compile.cxx(OF_THREADS), name="objects")
        worker(dylib["touch"])
        dylib.close()
    assert session.stats().retained == 3
    worker.end()
    assert session.stats().retained == 0


THROWS = """
#include "safe_call.h"
#include "trace.h"
#include <stdexcept>
struct Traced {
  ~Traced() { trace(-1); }
  int value = 0;
};
thread_local Traced object;
static int init = [] {
  ++object.value;
  throw std::runtime_error("no");
  return 0;
}();
"""


def test_objects_of_a_load_that_fails(compile: Compiler, refusal: Refusal, trace: Trace) -> None:
    with refusal.of(tol.LinkError, "no"):
        refusal.dylib.load(compile.cxx(THROWS))
    assert trace.take() == [-1]


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.slow
def test_thousands_of_loads_leave_nothing(compile: Compiler, session: tol.Session) -> None:
    path = compile.cxx(OF_THREADS.replace("trace(", "(void)("))
    content = path.read_bytes()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def load_and_drop(count: int) -> None:
        for _ in range(count):
            assert session.load(content)["touch"]() == 7

    load_and_drop(500)
    gc.collect()
    before = resident(), mappings(), len(list(Path("/proc/self/fd").iterdir()))
    load_and_drop(5000)
    gc.collect()
    after = resident(), mappings(), len(list(Path("/proc/self/fd").iterdir()))
    # Allocators may map a little more, whichever tests this process ran before.
    assert after[0] - before[0] < 1 << 20
    assert after[1] - before[1] < 50
    assert after[2] == before[2]
    assert session.stats().retained == 0


@pytest.mark.slow
def test_thousands_of_modules_at_once(
    compile: Compiler, session: tol.Session, worker: Worker
) -> None:
    content = compile(VARIABLES).read_bytes()
    functions = [session.load(content)["step"] for _ in range(5000)]

    def step_all() -> set[int]:
        return {step(1) for step in functions}

    assert step_all() == worker(step_all) == {6111}
    assert step_all() == {7221}
    functions.clear()
    gc.collect()
    assert session.stats().objects == 0


FOREIGN_HANDLES = """
#include "safe_call.h"
#include "trace.h"
#include <stdlib.h>
int __cxa_thread_atexit_impl(void (*)(void*), void*, void*);
int __cxa_atexit(void (*)(void*), void*, void*);
struct { char before[3], handle; } own = {"abc", 0};
// As crtbeginS.o has it, with what is no pointer after it.
struct { void* self; intptr_t more; } like_ours = {&like_ours, 0x4711};
#define HANDLE \
  (INT(0) == 0 ? 0 : INT(0) == 1 ? (void*)&own.handle : (void*)&like_ours)
static void destroy(void* object) { trace((intptr_t)object); }
EXPORT(thread_exit) {
  __cxa_thread_atexit_impl(destroy, (void*)1, HANDLE);
  RETURN(0);
}
EXPORT(exit) {
  __cxa_atexit(destroy, (void*)2, HANDLE);
  RETURN(0);
}
"""


@pytest.mark.parametrize("handle", [0, 1, 2], ids=["null", "its own", "like ours"])
@pytest.mark.parametrize("end", ["close", "drop"])
def test_destructors_registered_with_a_handle_of_the_codes_own(
    session: tol.Session, compile: Compiler, trace: Trace, handle: int, end: str
) -> None:
    dylib = session.load(compile(FOREIGN_HANDLES))
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        dylib["thread_exit"](handle)
        started.set()
        done.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    if end == "close":
        dylib.close()
    else:
        del dylib
    gc.collect()
    # Pending in a thread that lives, so the code stays.
    assert session.stats().retained == 1
    assert trace.take() == []
    done.set()
    thread.join()
    # Python lets go of a thread before the C library is done with it.
    for _ in range(60_000):
        if session.stats().bytes_code == 0:
            break
        time.sleep(0.001)
    assert trace.take() == [1]
    assert session.stats().retained == 0
    # On the thread that closes, they run first.
    session.load(compile(FOREIGN_HANDLES))["thread_exit"](handle)
    gc.collect()
    assert trace.take() == [1]
    assert session.stats().retained == session.stats().bytes_code == 0


@pytest.mark.parametrize("handle", [0, 1, 2], ids=["null", "its own", "like ours"])
def test_exit_handlers_registered_with_a_handle_of_the_codes_own(
    session: tol.Session, compile: Compiler, trace: Trace, handle: int
) -> None:
    dylib = session.load(compile(FOREIGN_HANDLES))
    dylib["exit"](handle)
    assert trace.take() == []
    dylib.close()
    assert trace.take() == [2]
    assert session.stats().bytes_code == 0
