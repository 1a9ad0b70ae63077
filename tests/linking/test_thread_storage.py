# SPDX-License-Identifier: Apache-2.0
"""Thread-local variables that the loader keeps itself, and that become the dynamic linker's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript

DEFINES = """
#include "safe_call.h"
#include <pthread.h>
#include <stdlib.h>
__thread int64_t counter = 40;
static __thread char zeros[3000];
static __thread int64_t aligned __attribute__((aligned(4096))) = 7;
EXPORT(count) {
  for (int i = 0; i < 3000; ++i) if (zeros[i]) RETURN(-1);
  if ((uintptr_t)&aligned % 4096 || aligned != 7) RETURN(-2);
  RETURN(++counter);
}
"""
# Few bytes: as many as a process has set aside for libraries that it opens later.
DEFINES_FEW = """
#include "safe_call.h"
__thread int64_t counter = 40;
EXPORT(count) { RETURN(++counter); }
"""
# Takes the variable for one at the same place in every thread.
USES = """
#include "safe_call.h"
extern __thread int64_t counter __attribute__((tls_model("initial-exec")));
EXPORT(look) { RETURN(counter); }
EXPORT(set) { RETURN(counter = INT(0)); }
"""


def in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what a call in a new thread returns."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)))
    thread.start()
    thread.join()
    return results[0]


def test_each_thread_has_its_own(session: tol.Session, compile: Compiler) -> None:
    count = session.load(compile(DEFINES, "-fPIC"))["count"]
    for _ in range(3):
        assert in_thread(count) == 41
    assert [count(), count()] == [41, 42]
    assert in_thread(lambda: [count(), count()]) == [41, 42]
    assert count() == 43


def test_many_modules_in_many_threads(session: tol.Session, compile: Compiler) -> None:
    """Numbers of modules are used again, in threads that live on and in new ones."""
    content = compile(DEFINES, "-fPIC").read_bytes()
    for _ in range(5):
        dylibs = [session.load(content) for _ in range(100)]
        counts = [dylib["count"] for dylib in dylibs]

        def count_all(calls: list[Any] = counts) -> list[Any]:
            return [call() for call in calls]

        for _ in range(3):
            assert in_thread(count_all) == [41] * 100
        assert count_all() == [41] * 100
        del dylibs[::2], counts[::2]
        counts += [session.load(content)["count"] for _ in range(30)]
        assert in_thread(count_all) == [41] * 80
        assert count_all() == [42] * 50 + [41] * 30
        del counts, count_all


def test_initial_exec_of_another_loads_variable(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(compile(DEFINES_FEW, "-fPIC"))
    dylib.load(compile(USES, "-fPIC"))
    assert dylib["look"]() == 40
    assert dylib["count"]() == 41
    assert dylib["look"]() == 41
    assert dylib["set"](70) == 70
    assert dylib["count"]() == 71
    assert in_thread(dylib["count"]) == 41
    again = session.load(compile(USES, "-fPIC"), link_order=[dylib])
    assert again["look"]() == 71


def test_initial_exec_of_a_variable_in_use(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(compile(DEFINES_FEW, "-fPIC"))
    assert dylib["count"]() == 41
    with pytest.raises(tol.LinkError, match=r"since threads have used them.*-ftls-model"):
        dylib.load(compile(USES, "-fPIC"))
    assert dylib["count"]() == 42


def test_the_copies_go_with_the_dylib(session: tol.Session, compile: Compiler) -> None:
    """Also those of threads that live on."""
    source = """
    #include "safe_call.h"
    static __thread char large[4 << 20];
    EXPORT(touch) { for (int i = 0; i < 4 << 20; ++i) large[i] = 1; RETURN(large[5]); }
    """
    content = compile(source, "-fPIC").read_bytes()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    functions: list[Callable[[], int]] = []
    wake, done, ended = threading.Event(), threading.Semaphore(0), threading.Event()

    def serve() -> None:
        while not ended.is_set():
            wake.wait()
            for function in functions:
                function()
            wake.clear()
            done.release()

    thread = threading.Thread(target=serve)
    thread.start()
    before = 0
    for number in range(30):
        dylib = session.load(content)
        functions.append(dylib["touch"])
        assert dylib["touch"]() == 1
        wake.set()
        done.acquire()
        functions.clear()
        del dylib
        if number == 5:
            before = resident()
    ended.set()
    wake.set()
    thread.join()
    assert resident() - before < 16 << 20


def test_other_libraries_destructors_of_a_thread(session: tol.Session, compile: Compiler) -> None:
    """They come after those of the language, and find the variables as the thread left them."""
    source = """
    #include "safe_call.h"
    #include <pthread.h>
    static __thread int64_t counter = 40;
    static pthread_key_t key;
    static int64_t seen[8], calls;
    static void at_end(void* value) {
      seen[calls++ % 8] = ++counter;
      if (calls < 3) pthread_setspecific(key, value);
    }
    EXPORT(make_key) { RETURN(pthread_key_create(&key, at_end)); }
    EXPORT(use) { pthread_setspecific(key, &seen); RETURN(counter = INT(0)); }
    EXPORT(seen) { RETURN(seen[INT(0)]); }
    EXPORT(drop_key) { RETURN(pthread_key_delete(key)); }
    """
    dylib = session.load(compile(source, "-fPIC"))
    assert dylib["make_key"]() == 0
    assert in_thread(dylib["use"], 100) == 100
    # Python takes the thread for ended before the C library does.
    deadline = time.monotonic() + 60
    while dylib["seen"](2) == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert [dylib["seen"](index) for index in range(4)] == [101, 102, 103, 0]
    assert dylib["drop_key"]() == 0


def test_a_forked_child(compile: Compiler, run_script: RunScript) -> None:
    script = """
import os, sys, threading
import tvm_ffi_object_loader as tol
content = open(sys.argv[1], "rb").read()
session = tol.Session()
before = session.load(content)
assert before["count"]() == 41
thread = threading.Thread(target=before["count"])
thread.start(); thread.join()
child = os.fork()
if child == 0:
    assert before["count"]() == 42
    for _ in range(3):
        dylib = session.load(content)
        assert dylib["count"]() == 41
        del dylib
    del before
    session.close()
    os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
assert before["count"]() == 42
"""
    run_script(script, compile(DEFINES, "-fPIC"))


NO_PROC = """
import os, sys, threading
assert not os.path.exists("/proc/self")
import tvm_ffi_object_loader as tol
session = tol.Session()
count = session.load(sys.argv[1])["count"]
assert [count(), count()] == [41, 42]
dylib = session.load(sys.argv[1])
dylib.load(sys.argv[2])
assert dylib["look"]() == 40 and dylib["count"]() == 41
assert not [name for name in os.listdir("/dev/shm") if name.startswith("object_loader_")]
print("fine")
"""


def test_without_proc(compile: Compiler, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if not unshare:
        pytest.skip("unshare is not installed")
    script = tmp_path / "script.py"
    script.write_text(NO_PROC)
    hidden = [unshare, "--mount", "--map-root-user", "sh", "-c"]
    mount = 'mount -t tmpfs none /proc 2>/dev/null || exit 77; exec "$@"'
    command = [sys.executable, str(script)]
    objects = [str(compile(DEFINES_FEW, "-fPIC")), str(compile(USES, "-fPIC"))]
    # The dynamic linker can't tell what $ORIGIN is, which a Python's own libraries may be found by.
    libraries = [str(Path(sys.base_prefix, "lib")), os.environ.get("LD_LIBRARY_PATH", "")]
    done = subprocess.run(
        [*hidden, mount, "sh", *command, *objects],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries))},
        check=False,
    )
    if done.returncode in (1, 77) and "fine" not in done.stdout and "Traceback" not in done.stderr:
        pytest.skip("this process may not hide /proc")
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


USES_ROOM = """
__thread char room[SIZE] __attribute__((tls_model("initial-exec")));
char* use_room(void) { return room; }
"""
NO_ROOM = """
import ctypes, os, shutil, sys, threading
import tvm_ffi
kept = []
for path in sys.argv[2:]:
    for number in range(1000):
        copy = f"{path}-{number}.so"
        shutil.copy(path, copy)
        try:
            kept.append(ctypes.CDLL(copy))
        except OSError as error:
            assert "static TLS" in str(error), error
            break
        finally:
            os.unlink(copy)
    else:
        raise AssertionError("there is no end of room")
import tvm_ffi_object_loader as tol
session = tol.Session()
content = open(sys.argv[1], "rb").read()


def work():
    for _ in range(20):
        dylib = session.load(content)
        assert [dylib["count"](), dylib["count"]()] == [41, 42]
        del dylib


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
work()
for thread in threads:
    thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(os.fork() or os._exit(work() or 5), 0)[1]) == 5
assert session.stats().objects == 0
"""


def test_the_loader_itself_needs_no_static_room(compile: Compiler, run_script: RunScript) -> None:
    """Other libraries have used up what the process has set aside when it is imported."""
    libraries = [
        compile.link(compile(USES_ROOM, "-fPIC", f"-DSIZE={size}")) for size in (256, 32, 8)
    ]
    run_script(NO_ROOM, compile(DEFINES, "-fPIC"), *libraries)
