# SPDX-License-Identifier: Apache-2.0
"""Many threads at once, with constructors that load, that wait and that throw."""

from __future__ import annotations

import pytest

from compilation import Compiler
from conftest import RunScript

INNER = """
#include "safe_call.h"
static int64_t value;
__attribute__((constructor)) static void init(void) { value = 7; }
int64_t inner_value(void) { return value; }
EXPORT(inner) { RETURN(value); }
"""
# Its constructor calls Python, which loads INNER and says where its function is.
OUTER = """
#include "safe_call.h"
static int64_t (*inner_value)(void);
__attribute__((constructor)) static void init(void) {
  TVMFFIByteArray name = {"stress.load_inner", 17};
  TVMFFIObjectHandle function = 0;
  TVMFFIAny result = {0};
  if (TVMFFIFunctionGetGlobal(&name, &function) || !function) return;
  if (!TVMFFIFunctionCall(function, 0, 0, &result)) {
    inner_value = (int64_t (*)(void))result.v_int64;
  }
  TVMFFIObjectDecRef(function);
}
EXPORT(outer) { RETURN(INT(0) + (inner_value ? inner_value() : -1000)); }
"""
# Both destroyed when a constructor throws: one is registered by the compiler, one by the source.
THROWS = """
#include "safe_call.h"
#include <cstdlib>
#include <stdexcept>
static int64_t* Events() { return (int64_t*)std::strtoull(std::getenv("EVENTS"), nullptr, 10); }
struct Counted {
  Counted() { __atomic_add_fetch(&Events()[0], 1, __ATOMIC_SEQ_CST); }
  ~Counted() { __atomic_add_fetch(&Events()[1], 1, __ATOMIC_SEQ_CST); }
};
static Counted before;
static void Handler() { __atomic_add_fetch(&Events()[2], 1, __ATOMIC_SEQ_CST); }
struct Error : std::runtime_error { using std::runtime_error::runtime_error; };
struct Thrower {
  Thrower() {
    std::atexit(Handler);
    throw Error("no such device");
  }
};
static Thrower thrower;
static Counted after;
__attribute__((destructor)) static void Never() { Events()[3] = 1; }
EXPORT(never) { RETURN(1); }
"""
NUMBERED = """
#include "safe_call.h"
#include <stdexcept>
struct Static { int64_t value; Static() : value(10) {} ~Static() { value = 0; } };
static Static object;
EXPORT(plain) {
  try {
    if (INT(0) < 0) throw std::runtime_error("negative");
  } catch (const std::exception&) {
    RETURN(-1);
  }
  RETURN(object.value + INT(0));
}
"""

STRESS = """
import ctypes, gc, os, random, sys, threading
import tvm_ffi
import tvm_ffi_object_loader as tol

THREADS, ROUNDS = 16, 400  # so many that a lock which is missing shows
mode, *paths = sys.argv[1:]
plain, outer, inner, throws = (open(path, "rb").read() for path in paths)
events = (ctypes.c_int64 * 4)()
os.environ["EVENTS"] = str(ctypes.addressof(events))
here = threading.local()  # .dylib: where this thread loads now; .kept: what its constructors loaded


@tvm_ffi.register_global_func("stress.load_inner")
def load_inner():
    if here.into_same:
        here.dylib.load(inner)
        return here.dylib.lookup("inner_value")
    here.kept = here.dylib.session.load(inner)
    return here.kept.lookup("inner_value")


shared_session = tol.Session("shared")
shared = shared_session.load(plain, name="shared")
function = shared["plain"]
keys = ("dylibs", "objects", "symbols", "bytes_code", "bytes_constants", "bytes_data", "retained")
before = {key: getattr(shared_session.stats(), key) for key in keys}
thrown = []


def check_plain(function):
    assert function(5) == 15 and function(-1) == -1


def load_plain(session, rng):
    dylib = session.load([plain])
    check_plain(dylib["plain"])
    kept = dylib["plain"]
    del dylib
    check_plain(kept)


def load_outer(session, rng):
    here.dylib, here.into_same = session.create_dylib(), rng.random() < 0.5
    here.dylib.load(outer)
    assert here.dylib["outer"](1) == 8
    assert ("inner" in here.dylib) == here.into_same
    here.dylib = here.kept = None


def load_throwing(session, rng):
    dylib = session.load(plain)
    try:
        dylib.load(throws)
    except tol.LinkError as error:
        assert "no such device" in str(error)
    else:
        raise AssertionError("loaded")
    thrown.append(1)
    assert dylib.functions == ["plain"]
    check_plain(dylib["plain"])


def use_shared(session, rng):
    check_plain(function)
    check_plain(shared["plain"])
    assert shared_session["shared"] is shared
    try:
        shared["outer"]
    except tol.FunctionNotFoundError:
        return
    raise AssertionError("found")


def close_in_between(session, rng):
    dylib = session.load(plain)
    kept = dylib["plain"]
    dylib.close()
    try:
        kept(1)
    except tol.SessionClosedError:
        return
    raise AssertionError("called")


def work(number):
    rng = random.Random(number)
    session = shared_session if mode == "one" else tol.Session()
    for round in range(ROUNDS):
        if mode == "many" and round % 10 == 9:
            session.close()
            session = tol.Session()
        rng.choice((load_plain, load_outer, load_throwing, use_shared, close_in_between))(
            session, rng
        )


errors = []
start = threading.Barrier(THREADS)


def run(number):
    try:
        start.wait()
        work(number)
    except BaseException as error:
        errors.append(error)


threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if errors:
    raise errors[0]
gc.collect()
after = {key: getattr(shared_session.stats(), key) for key in keys}
assert after == before, (after, before)
# What was constructed before the throw was destroyed, each handler ran, and nothing else did.
assert thrown and list(events) == [len(thrown)] * 3 + [0], (list(events), len(thrown))
print("end")
"""


@pytest.mark.slow
@pytest.mark.parametrize("sessions", ["one", "many"])
def test_sixteen_threads(compile: Compiler, run_script: RunScript, sessions: str) -> None:
    objects = [compile.cxx(NUMBERED), compile(OUTER), compile(INNER), compile.cxx(THROWS)]
    assert run_script(STRESS, sessions, *objects, timeout=120) == "end\n"


THROWING = """
import ctypes, os, sys
import tvm_ffi_object_loader as tol

plain, throws, uses = (open(path, "rb").read() for path in sys.argv[1:])
events = (ctypes.c_int64 * 4)()
os.environ["EVENTS"] = str(ctypes.addressof(events))
session = tol.Session()
dylib = session.load(plain)
before = session.stats()
for number in range(1, 4):
    try:
        dylib.load(throws)
    except tol.LinkError as error:
        assert "an initializer threw: no such device" in str(error), error
    else:
        raise AssertionError("loaded")
    # The object before the throw was destroyed and the handler ran; the one after never was.
    assert list(events) == [number, number, number, 0], list(events)
    assert session.stats() == before, (session.stats(), before)
    assert dylib.functions == ["plain"] and dylib["plain"](5) == 15
    for find in (dylib.get_function, dylib.lookup, dylib.module.get_function):
        try:
            find("never" if find != dylib.lookup else "__tvm_ffi_never")
        except (AttributeError, tol.UndefinedSymbolError):
            continue
        raise AssertionError(f"{find} finds it")
    try:
        session.load(uses, link_order=[dylib])
    except tol.UndefinedSymbolError as error:
        assert error.symbols == ("__tvm_ffi_never",)
    else:
        raise AssertionError("linked against it")
print("end")
"""
USES_NEVER = """
#include "safe_call.h"
EXPORT(never);
EXPORT(use) { return __tvm_ffi_never(self, args, num_args, ret); }
"""


def test_a_constructor_that_throws_undoes_the_load(
    compile: Compiler, run_script: RunScript
) -> None:
    objects = [compile.cxx(NUMBERED), compile.cxx(THROWS), compile(USES_NEVER)]
    assert run_script(THROWING, *objects, timeout=60) == "end\n"


# Waits until it is told to go on; another thread of the test looks at the dylib meanwhile.
WAITS = """
#include "safe_call.h"
#include <stdlib.h>
#include <unistd.h>
static int64_t value;
__attribute__((constructor)) static void init(void) {
  volatile int64_t* events = (int64_t*)strtoull(getenv("EVENTS"), 0, 10);
  events[0] = 1;
  for (int i = 0; i < 60000 && !events[1]; ++i) usleep(1000);
  value = 42;
}
int64_t waited_value(void) { return value; }
EXPORT(waited) { RETURN(value); }
"""
USES_WAITED = """
#include "safe_call.h"
int64_t waited_value(void);
EXPORT(use) { RETURN(waited_value()); }
"""
OBSERVER = """
import ctypes, os, sys, threading, time
import tvm_ffi_object_loader as tol

plain, waits, uses, inner = (open(path, "rb").read() for path in sys.argv[1:])
events = (ctypes.c_int64 * 4)()
os.environ["EVENTS"] = str(ctypes.addressof(events))
session = tol.Session()
dylib = session.load(plain)
module = dylib.module


def visible():
    found = ["functions"] * ("waited" in dylib.functions) + ["in"] * ("waited" in dylib)
    found += ["repr"] * ("waited" in repr(dylib))
    searches = {
        "get_function": lambda: dylib.get_function("waited"),
        "[]": lambda: dylib["waited"],
        "lookup": lambda: dylib.lookup("__tvm_ffi_waited"),
        "lookup in link order": lambda: user.lookup("waited_value"),
        "module": lambda: module.get_function("waited"),
        "link": lambda: session.load(uses, link_order=[dylib])["use"](),
    }
    for name, search in searches.items():
        try:
            assert search() in (42, None) or callable(search()) or search() > 4096
            found.append(name)
        except (AttributeError, tol.UndefinedSymbolError):
            pass
    return found


user = session.create_dylib("user", link_order=[dylib])
loader = threading.Thread(target=lambda: dylib.load(waits))
loader.start()
while not events[0]:
    time.sleep(0.001)
for _ in range(3):
    assert visible() == [], visible()
assert dylib["plain"](5) == 15
# Another load into the same dylib takes its turn; loads into others don't wait.
second = threading.Thread(target=lambda: dylib.load(inner))
second.start()
assert session.load(plain)["plain"](5) == 15
second.join(0.2)
assert second.is_alive() and dylib.functions == ["plain"]
events[1] = 1
loader.join()
second.join()
assert len(visible()) == 9, visible()
assert dylib["waited"]() == 42 and dylib["inner"]() == 7
print("end")
"""


def test_nothing_is_seen_of_a_load_before_its_constructors_have_finished(
    compile: Compiler, run_script: RunScript
) -> None:
    objects = [compile.cxx(NUMBERED), compile(WAITS), compile(USES_WAITED), compile(INNER)]
    assert run_script(OBSERVER, *objects, timeout=120) == "end\n"
