# SPDX-License-Identifier: Apache-2.0
"""Fork: parent and child go on loading, calling and unloading, whatever other threads did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from compilation import Compiler
from conftest import RunScript
from forking import FORK

STATE = """
#include "safe_call.h"
#include <stdexcept>
static int64_t value = 5;
struct Static { int64_t* p; Static() : p(new int64_t(1)) {} ~Static() { delete p; } };
static Static object;
EXPORT(set) { value = INT(0); RETURN(value); }
EXPORT(get) { RETURN(value); }
EXPORT(catches) {
  try {
    if (INT(0) < 0) throw std::runtime_error("negative");
  } catch (const std::exception&) {
    RETURN(-1);
  }
  RETURN(*object.p);
}
"""
WAITS = """
#include "safe_call.h"
#include <stdlib.h>
#include <unistd.h>
static void wait_for(volatile int64_t* flag) {
  flag[0] = 1;
  while (!flag[1]) usleep(1000);
}
EXPORT(wait) { wait_for((int64_t*)INT(0)); RETURN(3); }
"""
WAITS_IN_INITIALIZER = (
    WAITS
    + """
__attribute__((constructor)) static void init(void) {
  const char* flag = getenv("FLAG");
  if (flag) wait_for((int64_t*)strtoull(flag, 0, 10));
}
"""
)


@pytest.fixture(scope="module")
def state(compile: Compiler) -> Path:
    """Return an object with a variable, a C++ static and an exception."""
    return compile.cxx(STATE, name="state")


def test_parent_and_child_go_on_with_what_is_loaded(state: Path, run_script: RunScript) -> None:
    script = """
before = tol.Session().load(sys.argv[1])
session = before.session
before["set"](1)


def work():
    assert before["get"]() == 1
    before["set"](2)
    for number in range(50):
        exercise(session, sys.argv[1], number)
    assert before["get"]() == 2
    with tol.Session() as other:
        exercise(other, sys.argv[1], 8)
    exercise(tol.default_session(), sys.argv[1], 8)
    before.close()
    session.close()


pids = [fork(work) for _ in range(3)]
kept = [session.load(sys.argv[1]) for _ in range(20)]
for number, dylib in enumerate(kept):
    dylib["set"](number)
for pid in pids:
    wait(pid)
assert [dylib["get"]() for dylib in kept] == list(range(20))
assert before["get"]() == 1 and before["catches"](-1) == -1
session.close()
print("end")
"""
    assert run_script(FORK + script, state) == "end\n"


def test_code_of_parent_and_child_does_not_mix(compile: Compiler, run_script: RunScript) -> None:
    """Each loads another object where the other one does, unloads it, and looks at its own."""
    objects = [
        compile(
            '#include "safe_call.h"\n'
            f"static const int64_t table[4096] = {{[0 ... 4095] = {number}}};\n"
            f"EXPORT(value) {{ RETURN(table[INT(0)] + {number}); }}\n"
        )
        for number in (10, 20, 30)
    ]
    script = """
session = tol.Session()
common = session.load(sys.argv[3])


def churn(path, number):
    kept = []
    for round in range(300):
        dylib = session.load(path)
        assert dylib["value"](round) == 2 * number
        kept = kept[-7:] + [dylib]
        assert all(one["value"](7) == 2 * number for one in kept)
        assert common["value"](round) == 60


children = [fork(lambda: churn(sys.argv[2], 20)) for _ in range(2)]
churn(sys.argv[1], 10)
grandparent = fork(lambda: wait(fork(lambda: None)))
wait(grandparent)
for pid in children:
    wait(pid)
print("end")
"""
    assert run_script(FORK + script, *objects) == "end\n"


FORK_WHILE_OTHERS_LOAD = """
session = tol.Session()
shared = session.create_dylib("shared")
function = session.load(sys.argv[1])["catches"]
over, rounds = threading.Event(), [0, 0]


def churn(index):
    while not over.is_set():
        with tol.Session() if index else session.load(sys.argv[1]) as scope:
            if index:
                scope.load(sys.argv[1])
        assert session.stats() and session.dylibs
        rounds[index] += 1


def work():
    assert function(4) == 1
    exercise(session, sys.argv[1], 3)
    assert session.dylibs["shared"] is shared
    with tol.Session() as other:
        exercise(other, sys.argv[1], 4)


threads = [threading.Thread(target=churn, args=(index,)) for index in (0, 1)]
for thread in threads:
    thread.start()
for _ in range(int(sys.argv[2])):
    wait(fork(work))
over.set()
for thread in threads:
    thread.join()
print(min(rounds) > 0)
"""


@pytest.mark.slow
def test_fork_while_other_threads_load_and_unload(state: Path, run_script: RunScript) -> None:
    """The threads throw nothing: libgcc has a lock there, up to GCC 12's, that a fork cuts off."""
    assert run_script(FORK + FORK_WHILE_OTHERS_LOAD, state, 200, timeout=100) == "True\n"


def test_fork_while_another_thread_is_in_a_call(compile: Compiler, run_script: RunScript) -> None:
    """The child can close what the parent's thread is inside of."""
    script = """
flag = (ctypes.c_int64 * 2)()
dylib = tol.Session().load(sys.argv[1])
results = []
thread = threading.Thread(target=lambda: results.append(dylib["wait"](ctypes.addressof(flag))))
thread.start()
while not flag[0]:
    time.sleep(0.001)


def work():
    done = (ctypes.c_int64 * 2)(0, 1)
    assert dylib["wait"](ctypes.addressof(done)) == 3
    dylib.session.close()


wait(fork(work))
flag[1] = 1
thread.join()
print(results)
"""
    assert run_script(FORK + script, compile(WAITS)) == "[3]\n"


FORK_IN_A_LOAD = """
flag = (ctypes.c_int64 * 2)()
ctypes.CDLL(None).setenv(b"FLAG", str(ctypes.addressof(flag)).encode(), 1)
session = tol.Session()
dylib = session.load(sys.argv[2], name="dylib")
thread = threading.Thread(target=dylib.load, args=(sys.argv[1],))
thread.start()
while not flag[0]:
    time.sleep(0.001)


def work():
    # What the thread was in the middle of did not happen here, and may happen now.
    assert dylib.functions == ["catches", "get", "set"]
    flag[1] = 1
    threads = [threading.Thread(target=dylib.functions.index, args=("get",)) for _ in range(40)]
    for one in threads:
        one.start()
    dylib.load(sys.argv[1])
    assert dylib["wait"](ctypes.addressof(flag)) == 3
    dylib.close()
    exercise(session, sys.argv[2], 4)
    session.close()
    tol.Session().load(sys.argv[2])["catches"](-1)


wait(fork(work))
flag[1] = 1
thread.join()
assert dylib["wait"](ctypes.addressof(flag)) == 3
session.close()
print("end")
"""


def test_fork_while_another_thread_is_in_a_load(
    compile: Compiler, state: Path, run_script: RunScript
) -> None:
    waits = compile(WAITS_IN_INITIALIZER)
    assert run_script(FORK + FORK_IN_A_LOAD, waits, state, timeout=100) == "end\n"


def test_fork_in_an_initializer(compile: Compiler, state: Path, run_script: RunScript) -> None:
    """Both processes return from the load, and go on with the same dylib."""
    source = """
    #include "safe_call.h"
    #include <unistd.h>
    static int64_t pid = -1;
    __attribute__((constructor)) static void init(void) { pid = fork(); }
    EXPORT(pid) { RETURN(pid); }
    """
    script = """
session = tol.Session()
dylib = session.load(sys.argv[1])
dylib.load(sys.argv[2])
exercise(session, sys.argv[2], 4)
if dylib["pid"]() == 0:
    session.close()
    os._exit(0)
wait(dylib["pid"]())
session.close()
print("end")
"""
    assert run_script(FORK + script, compile(source), state, timeout=60) == "end\n"


def test_fork_in_a_thread_and_exec(state: Path, run_script: RunScript) -> None:
    script = """
session = tol.Session()
dylib = session.load(sys.argv[1])


def in_thread():
    def work():
        dylib["set"](7)
        exercise(session, sys.argv[1], 2)
        dylib.close()
        with tol.Session() as other:
            exercise(other, sys.argv[1], 2)

    wait(fork(work))
    wait(fork(lambda: os.execv(sys.executable, [sys.executable, "-c", "print('executed')"])))


thread = threading.Thread(target=in_thread)
thread.start()
thread.join()
assert dylib["get"]() == 5
"""
    assert run_script(FORK + script, state) == "executed\n"


def test_multiprocessing_with_fork(state: Path, run_script: RunScript) -> None:
    script = """
import multiprocessing

session = tol.Session()
dylib = session.load(sys.argv[1])
dylib["set"](9)


def work(number):
    assert dylib["get"]() in (9, *range(8))
    dylib["set"](number)
    exercise(session, sys.argv[1], number)
    exercise(tol.default_session(), sys.argv[1], number)
    return dylib["get"]()


with multiprocessing.get_context("fork").Pool(3) as pool:
    print(pool.map(work, range(8), chunksize=1))
assert dylib["get"]() == 9
"""
    assert run_script(FORK + script, state, timeout=60) == "[0, 1, 2, 3, 4, 5, 6, 7]\n"


def test_fork_handlers_of_loaded_code_may_load(
    compile: Compiler, state: Path, run_script: RunScript
) -> None:
    source = """
    #include <pthread.h>
    #include <tvm/ffi/function.h>
    static void handle() { tvm::ffi::Function::GetGlobalRequired("handle")(); }
    __attribute__((constructor)) static void init() { pthread_atfork(handle, handle, handle); }
    """
    script = """
session = tol.Session()
count = 0


@tvm_ffi.register_global_func("handle")
def handle():
    global count
    count += 1
    exercise(session, sys.argv[2], count)


dylib = session.load(sys.argv[1])


def work():
    assert count == 2
    dylib.close()


wait(fork(work))
assert count == 2
dylib.close()
wait(fork(lambda: None))
print(count)
"""
    assert run_script(FORK + script, compile.cxx(source), state, timeout=60) == "2\n"


REUSED = """
import sys
import tvm_ffi_object_loader as tol

session = tol.Session()
for _ in range(2):
    for path in sys.argv[1:]:
        print(session.load(path)["get"](), end=" ")
kept = [session.load(path) for path in sys.argv[1:]]
print(*(dylib["get"]() for dylib in kept))
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
@pytest.mark.parametrize("tool", ["none", "memcheck"])
def test_code_runs_where_other_code_was_translated(
    compile: Compiler, tmp_path: Path, tool: str
) -> None:
    source = '#include "safe_call.h"\nEXPORT(get) {{ RETURN({}); }}'
    objects = [compile(source.format(number)) for number in range(1, 7)]
    script = tmp_path / "script.py"
    script.write_text(REUSED)
    command = ["valgrind", "-q", f"--tool={tool}", f"--log-file={tmp_path / 'log'}"]
    # A free-threaded Python has an allocator of its own, and no other.
    allocator = "default" if sysconfig.get_config_var("Py_GIL_DISABLED") else "malloc"
    result = subprocess.run(
        [*command, sys.executable, script, *objects],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONMALLOC": allocator},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [str(number) for number in range(1, 7)] * 3
