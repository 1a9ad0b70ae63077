# SPDX-License-Identifier: Apache-2.0
"""Hundreds of modules at a time: each goes on as if it were the only one, whichever of them go."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import RunScript, Trace

THROWS = """
#include "safe_call.h"
#include "trace.h"
#include <stdexcept>
struct Counted {
  explicit Counted(int64_t* n) : n_(n) {}
  ~Counted() { ++*n_; }
  int64_t* n_;
};
__attribute__((noinline)) static int64_t down(int64_t n, int64_t* unwound) {
  Counted counted(unwound);
  if (n == 0) throw std::runtime_error("deep");
  return down(n - 1, unwound) + n;
}
EXPORT(unwind) {
  int64_t unwound = 0;
  try {
    down(INT(0), &unwound);
  } catch (const std::exception&) {
    RETURN(unwound);
  }
  RETURN(-1);
}
struct AtUnload {
  ~AtUnload() { trace(-1); }
};
static AtUnload at_unload;
"""


@pytest.fixture(scope="module")
def throws(compile: Compiler) -> Path:
    return compile.cxx(THROWS, "-O1", "-fPIC")


# Which of the loaded modules go, in turn: indices into those that are left.
ORDERS: dict[str, Callable[[int], list[int]]] = {
    "first": lambda count: [0] * count,
    "last": lambda count: [-1] * count,
    "every other": lambda count: [index // 2 for index in range(count)],
    "random": lambda count: random.Random(1).choices(range(count), k=count),
}


@pytest.mark.parametrize("order", ORDERS)
def test_throws_while_modules_come_and_go(
    compile: Compiler, throws: Path, session: tol.Session, trace: Trace, order: str
) -> None:
    content = throws.read_bytes()
    # What takes the place of code that is gone has other functions there, with other frames.
    others = compile.cxx(THROWS, "-O0", "-fPIC").read_bytes()
    loaded = [session.load(content) for _ in range(400)]
    for number in range(400):
        assert loaded[number]["unwind"](number % 10) == number % 10 + 1
    for number, index in enumerate(ORDERS[order](350)):
        del loaded[index % len(loaded)]
        assert trace.take() == [-1]
        if number % 3 == 0:
            assert random.Random(number).choice(loaded)["unwind"](5) == 6
        if number % 5 == 0:
            loaded.append(session.load(others if number % 2 else content))
            assert loaded[-1]["unwind"](7) == 8
    left = len(loaded)
    assert [dylib["unwind"](3) for dylib in loaded] == [4] * left
    del loaded
    assert trace.take() == [-1] * left
    assert session.stats().bytes_code == 0


def test_throws_in_threads_while_modules_come_and_go(throws: Path, session: tol.Session) -> None:
    content = throws.read_bytes()
    resident = [session.load(content) for _ in range(200)]
    wrong: list[int] = []
    ended = threading.Event()

    def throw(seed: int) -> None:
        numbers = random.Random(seed)
        while not ended.is_set():
            unwound = numbers.choice(resident)["unwind"](9)
            if unwound != 10:
                wrong.append(unwound)

    def load_and_drop() -> None:
        for _ in range(300):
            dylib = session.load(content)
            if dylib["unwind"](1) != 2:
                wrong.append(-2)

    throwers = [threading.Thread(target=throw, args=(seed,)) for seed in range(2)]
    loaders = [threading.Thread(target=load_and_drop) for _ in range(2)]
    for thread in throwers + loaders:
        thread.start()
    for thread in loaders:
        thread.join()
    ended.set()
    for thread in throwers:
        thread.join()
    assert wrong == []


def test_static_destructors_of_many_modules_at_exit(
    compile: Compiler, run_script: RunScript
) -> None:
    """They run once each: of what was dropped then, of what is left at exit."""
    source = """
    #include "safe_call.h"
    #include <stdio.h>
    static int number;
    struct AtExit { ~AtExit() { printf("%d ", number); fflush(stdout); } };
    static AtExit at_exit;
    EXPORT(set) { RETURN(number = INT(0)); }
    """
    script = """
import sys
import tvm_ffi_object_loader as tol
session = tol.Session()
content = open(sys.argv[1], "rb").read()
left = []
for number in range(300):
    dylib = session.load(content)
    dylib["set"](number)
    if number % 3 == 0:
        left.append(dylib)
    del dylib
print("|", end=" ", flush=True)
tol.keep = left  # until the process has ended
"""
    output = run_script(script, compile.cxx(source, "-O1", "-fPIC"))
    dropped, at_exit = ([int(number) for number in part.split()] for part in output.split("|"))
    assert dropped == [number for number in range(300) if number % 3]
    assert sorted(at_exit) == [number for number in range(300) if number % 3 == 0]


# Counts how often anybody asks for the frame of an address.
COUNTING = """
#define _GNU_SOURCE
#include <dlfcn.h>
static long count;
const void* _Unwind_Find_FDE(void* address, void* bases) {
  static const void* (*next)(void*, void*);
  if (!next) next = (const void* (*)(void*, void*))dlsym(RTLD_NEXT, "_Unwind_Find_FDE");
  ++count;
  return next(address, bases);
}
long look_ups(void) { return count; }
"""


def test_loads_do_not_look_through_the_tables_of_others(
    throws: Path, run_script: RunScript, tmp_path: Path
) -> None:
    """What others have registered costs a look-up, and each look-up would cost all of it."""
    library = tmp_path / "counting.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o"]
    subprocess.run([*command, str(library)], input=COUNTING, text=True, check=True)
    run_script(
        """
import ctypes, sys
import tvm_ffi_object_loader as tol
counting = ctypes.CDLL(sys.argv[1])
session = tol.Session()
for kept in range(2):
    session.load(sys.argv[2])
    before = counting.look_ups()
    for _ in range(200):
        session.load(sys.argv[2])
    assert counting.look_ups() == before, counting.look_ups() - before
    resident = session.load(sys.argv[2], name=f"resident {kept}")
""",
        library,
        throws,
        LD_PRELOAD=str(library),
    )
