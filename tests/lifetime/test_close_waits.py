# SPDX-License-Identifier: Apache-2.0
"""`close` while others are at work: it waits, or is refused; and circles of threads that wait."""

from __future__ import annotations

import pytest

from closing import run
from compilation import Compiler
from conftest import RunScript

# Its constructor, and its destructor, call the global functions named after it.
CALLS = """
#include <tvm/ffi/function.h>
#include <cstdlib>
static void call(const char* name) { tvm::ffi::Function::GetGlobalRequired(name)(); }
static void end() { call("end_NAME"); }
__attribute__((constructor)) static void begin() { std::atexit(end); call("begin_NAME"); }
"""


@pytest.mark.parametrize("what", ["a", "session"])
def test_close_waits_for_a_call_that_calls_back(
    compile: Compiler, run_script: RunScript, what: str
) -> None:
    script = f"""
inside, leave = threading.Event(), threading.Event()


def callback():
    inside.set()
    leave.wait()
    assert tol.Session().load(path)["add"](1, 2) == 3
    results.append("left")


caller = start(lambda: a["call"](callback))
inside.wait()
closer = start(lambda: ({what}.close(), results.append("closed")))
spin(lambda: a.closed)
assert results == []
leave.set()
caller.join()
closer.join()
assert results.index("left") < results.index("closed")
print(sorted(map(str, results)))
"""
    assert run(run_script, compile, script) == "['(None, None)', '5', 'closed', 'left']\n"


def test_a_call_closes_another_dylib(compile: Compiler, run_script: RunScript) -> None:
    script = """
print(a["call"](b.close), b.closed, a.closed)
c = session.load(path)
caller = start(lambda: c["wait"](ctypes.addressof(flag)))
spin(lambda: flag[0])
threading.Timer(0.1, lambda: flag.__setitem__(1, 1)).start()
print(a["call"](c.close), c.closed, flag[1])
"""
    assert run(run_script, compile, script) == "5 True False\n5 True 1\n"


def test_calls_that_close_each_others_dylibs(compile: Compiler, run_script: RunScript) -> None:
    """The first one waits for the second, which is refused: waiting would never end."""
    script = """
barrier = threading.Barrier(2)


def close(other):
    barrier.wait()
    try:
        other.close()
        return "closed"
    except tol.ObjectLoaderError as error:
        assert type(error) is tol.ObjectLoaderError and "waits for this one" in str(error)
        results.append(other)


threads = [
    start(lambda one=one, other=other: one["call"](lambda: close(other)))
    for one, other in ((a, b), (b, a))
]
for thread in threads:
    thread.join()
(open_one,) = [dylib for dylib in (a, b) if not dylib.closed]
assert results.count(5) == 2 and results.count(open_one) == 1, results
assert open_one["add"](2, 3) == 5 and list(session.dylibs) == [open_one.name]
open_one.close()
print("end")
"""
    assert run(run_script, compile, script) == "end\n"


def test_three_calls_that_close_in_a_circle(compile: Compiler, run_script: RunScript) -> None:
    script = """
dylibs = [a, b, session.load(path)]
barrier, errors = threading.Barrier(3), []


def close(other):
    barrier.wait()
    try:
        other.close()
    except tol.ObjectLoaderError as error:
        errors.append(error)


threads = [
    start(lambda i=i: dylibs[i]["call"](lambda: close(dylibs[(i + 1) % 3]))) for i in range(3)
]
for thread in threads:
    thread.join()
assert len(errors) == 1 and results == [5, 5, 5], (errors, results)
assert [dylib.closed for dylib in dylibs].count(False) == 1
session.close()
print("end")
"""
    assert run(run_script, compile, script) == "end\n"


CROSSING = """
for name in ("a", "b"):
    for event in ("begin", "end"):
        tvm_ffi.register_global_func(f"{event}_{name}", lambda: None, override=True)
barrier, errors = threading.Barrier(2), []


def begin(other):
    barrier.wait()
    try:
        ACTION
    except tol.ObjectLoaderError as error:
        assert "waits for this one" in str(error), error
        errors.append(error)


tvm_ffi.register_global_func("begin_a", lambda: begin(b), override=True)
tvm_ffi.register_global_func("begin_b", lambda: begin(a), override=True)
first, second, more = sys.argv[2:]
threads = [start(lambda: a.load(first)), start(lambda: b.load(second))]
for thread in threads:
    thread.join()
assert set(results) == {a, b}, results
assert len(errors) == 1, errors
"""


def crossing(compile: Compiler) -> list[object]:
    return [
        *(compile.cxx(CALLS.replace("NAME", name)) for name in ("a", "b")),
        compile('#include "safe_call.h"\nEXPORT(more) { RETURN(7); }\n'),
    ]


def test_constructors_that_load_into_each_others_dylibs(
    compile: Compiler, run_script: RunScript
) -> None:
    script = (
        CROSSING.replace("ACTION", "other.load(more)")
        + """
assert sorted("more" in dylib for dylib in (a, b)) == [False, True]
for dylib in (a, b):
    if "more" not in dylib:
        dylib.load(more)
    assert dylib["more"]() == 7
session.close()
print("end")
"""
    )
    assert run(run_script, compile, script, *crossing(compile)) == "end\n"


def test_constructors_that_close_each_others_dylibs(
    compile: Compiler, run_script: RunScript
) -> None:
    script = (
        CROSSING.replace("ACTION", "other.close()").replace(
            "assert set(results) == {a, b}, results", ""
        )
        + """
(open_one,) = [dylib for dylib in (a, b) if not dylib.closed]
open_one.load(more)
assert open_one["more"]() == 7
session.close()
print("end")
"""
    )
    assert run(run_script, compile, script, *crossing(compile)) == "end\n"


def test_close_while_another_thread_loads(compile: Compiler, run_script: RunScript) -> None:
    """It waits for the initializers, then unloads what they initialized."""
    script = """
inside, leave = threading.Event(), threading.Event()
tvm_ffi.register_global_func("begin_a", lambda: (inside.set(), leave.wait(), None)[-1])
tvm_ffi.register_global_func("end_a", lambda: results.append("end"))
loader = start(lambda: a.load(sys.argv[2]))
inside.wait()
closer = start(session.close)
spin(lambda: a.closed)
assert results == []
leave.set()
loader.join()
closer.join()
assert a.closed and b.closed and session.stats().bytes_code == 0
print(results.count("end"), names_of(results))
"""
    output = run(run_script, compile, script, *crossing(compile)[:1])
    assert output in (
        "1 ['NoneType', 'NoneType', 'str']\n",
        "1 ['NoneType', 'SessionClosedError', 'str']\n",
    )


def test_close_from_a_finalizer_and_from_a_signal_handler(
    compile: Compiler, run_script: RunScript
) -> None:
    script = """
class Closes:
    def __init__(self, dylib):
        self.dylib = dylib

    def __del__(self):
        try:
            self.dylib.close()
            results.append("closed")
        except tol.ObjectLoaderError:
            results.append("refused")


one = Closes(a)
del one
cycle = [Closes(session.load(path))]
cycle.append(cycle)
del cycle
gc.collect()


def drop_inside(holder=[Closes(b)]):
    holder.clear()


b["call"](drop_inside)
fired = []


def close_and_note(*_):
    results.append(Closes(b).dylib.name)
    gc.collect()
    fired.append(True)


signal.signal(signal.SIGALRM, close_and_note)


def interrupted():
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    spin(lambda: len(fired) == 1)


b["call"](interrupted)
signal.setitimer(signal.ITIMER_REAL, 0.05)
spin(lambda: len(fired) == 2)
print(results, b.closed)
"""
    assert run(run_script, compile, script) == (
        "['closed', 'closed', 'refused', 'refused', 'b', 'closed', 'b'] True\n"
    )


def test_close_from_a_handler_of_loaded_code(compile: Compiler, run_script: RunScript) -> None:
    """While a dylib is unloaded its handler closes another one, and can't close its own."""
    script = """
def end():
    b.close()
    try:
        a.close()
    except tol.ObjectLoaderError as error:
        results.append("within its own code" in str(error))


tvm_ffi.register_global_func("begin_a", lambda: None)
tvm_ffi.register_global_func("end_a", end)
a.load(sys.argv[2])
a.close()
print(results, a.closed, b.closed, session.dylibs)
"""
    assert run(run_script, compile, script, *crossing(compile)[:1]) == "[True] True True {}\n"


def test_threads_that_close_at_random_never_wait_for_ever(
    compile: Compiler, run_script: RunScript
) -> None:
    script = """
import random

dylibs = [session.create_dylib(f"d{i}") for i in range(5)]
for dylib in dylibs:
    dylib.load(path)
closed = 0


def nest(depth):
    try:
        if depth == 0:
            random.choice(dylibs).close()
        else:
            random.choice(dylibs)["call"](lambda: nest(depth - 1))
    except tol.ObjectLoaderError:
        pass


def work():
    for _ in range(60):
        nest(random.randrange(3))
        index = random.randrange(len(dylibs))
        if dylibs[index].closed:
            try:
                dylibs[index] = session.load(path)
            except tol.ObjectLoaderError:
                pass


threads = [start(work) for _ in range(6)]
for thread in threads:
    thread.join()
session.close()
print(results)
"""
    assert run(run_script, compile, script) == "[None, None, None, None, None, None]\n"


DEEP = """
# A thread that is inside 150 calls of `a`, and 150 of `b`, each in one of the other.
call, call_b, wait = a["call"], b["call"], a["wait"]


def nest(depth):
    if depth == 0:
        return wait(ctypes.addressof(flag))
    inner = tvm_ffi.convert(lambda: nest(depth - 1))
    return (call, call_b)[depth % 2](inner)


thread = start(lambda: nest(300))
spin(lambda: flag[0])
for dylib in (a, b):
    try:
        dylib.close(timeout=0.01)
        raise AssertionError("closed")
    except TimeoutError:
        pass
# A thread that is in no call is told apart from it, also where it makes deep calls itself.
results_here = []


def close_inside(depth):
    if depth:
        call(tvm_ffi.convert(lambda: close_inside(depth - 1)))
        return
    try:
        a.close()
    except tol.ObjectLoaderError as error:
        results_here.append("within its own code" in str(error))


close_inside(100)
assert results_here == [True]
# In a child of a fork the other thread is not there, nor are its calls.
child = os.fork()
if child == 0:
    signal.alarm(30)
    b.close()
    a.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
flag[1] = 7
thread.join()
assert results == [5]
b.close(timeout=30)
a.close(timeout=30)
"""


def test_calls_nested_deeply_are_known_by_their_threads(
    compile: Compiler, run_script: RunScript
) -> None:
    run(run_script, compile, DEEP)
