# SPDX-License-Identifier: Apache-2.0
"""Where the system says no: each way to memory for code is refused, and what comes next serves."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import refused_calls
from compilation import Compiler
from conftest import RunScript
from folders import HELPERS

pytestmark = pytest.mark.skipif(
    refused_calls.why_not() != "", reason=f"no filters here: {refused_calls.why_not()}"
)
with_mdwe = pytest.mark.skipif(
    refused_calls.why_not("deny_write_execute()") != "",
    reason=f"Linux < 6.3: {refused_calls.why_not('deny_write_execute()')}",
)

CODE = """
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>
#include <stdexcept>
static const int64_t table[700] = {NUMBER, 0, NUMBER};
static int64_t calls = 0;
struct Static { int64_t* p; Static() : p(new int64_t(1)) {} ~Static() { delete p; } };
static Static object;
static int64_t number(int64_t index) {
  try {
    if (index < 0) throw std::out_of_range("negative");
  } catch (const std::exception&) {
    return -1;
  }
  return table[index] + (++calls > 0) - *object.p;
}
static tvm::ffi::String text(int64_t size) { return std::string(size, 'a' + NUMBER % 26); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(number, number)
TVM_FFI_DLL_EXPORT_TYPED_FUNC(text, text)
"""
LARGE_CONSTANT = """
extern const char large_constant[1 << 20];
const char large_constant[1 << 20] = {7};
"""

EXERCISE = """
import ctypes, errno, gc, os, sys, threading
import refused_calls
from refused_calls import *

count = 6


def ways():
    found = set()
    for line in open("/proc/self/maps"):
        permissions, name = line.split()[1], " ".join(line.split()[5:])
        assert "w" not in permissions or "x" not in permissions, line
        if "x" in permissions and not name.startswith(("/lib", "/usr", "[", sys.prefix)):
            if name.startswith("/dev/zero"):
                found.add("mapped twice")
            elif "memfd:object_loader" in name:
                found.add("file in memory")
            elif name.endswith("(deleted)"):
                found.add("file without a name")
            elif not name:
                found.add("written first")
    return found


def text(number, size=100):
    return chr(ord("a") + number % 26) * size


def check(dylib, number):
    assert dylib["number"](0) == dylib["number"](2) == number and dylib["number"](1) == 0
    assert dylib["number"](-5) == -1
    assert dylib["text"](100) == text(number)


def used(session):
    return [getattr(session.stats(), key) for key in ("dylibs", "bytes_code", "bytes_constants")]


def exercise(session, paths):
    before = used(session)
    kept = [session.load(path) for path in paths]
    for number, dylib in enumerate(kept):
        check(dylib, number)
    results = [dylib["text"](1000) for dylib in kept]
    addresses = {dylib.lookup("__tvm_ffi_number") for dylib in kept}
    for dylib in kept[::2]:
        dylib.close()
    for number, result in enumerate(results):
        assert result == text(number, 1000)
    del result, results, kept[::2], dylib
    gc.collect()
    # What was let go is used again, and nothing else is there then.
    reused = 0
    for _ in range(3):
        for number in range(count):
            dylib = session.load(paths[number])
            check(dylib, number)
            reused += dylib.lookup("__tvm_ffi_number") in addresses
    assert reused > 0
    for number, dylib in zip(range(1, count, 2), kept):
        check(dylib, number)
    del kept, dylib
    gc.collect()
    assert used(session) == before
    return ways()
"""
WAYS = (
    EXERCISE
    + """
import tvm_ffi_object_loader as tol

paths = sys.argv[2:]
eval(sys.argv[1])
session = tol.Session()
first, kept = ways(), session.load(paths[0])
check(kept, 0)
print(*sorted(ways() - first), sep=", ")
del kept
exercise(session, paths)
threads = [threading.Thread(target=exercise, args=(tol.Session(), paths)) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
# Parent and child go on, each by itself.
kept = [session.load(path) for path in paths]
child = os.fork()
for number, dylib in enumerate(kept):
    check(dylib, number)
del kept[::2], dylib
exercise(session, paths)
exercise(tol.Session(), paths)
for number, dylib in zip(range(1, count, 2), kept):
    check(dylib, number)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
session.close()
session = tol.Session()
assert session.stats().bytes_reserved == 0
"""
)
# What is refused, and which way is left.
LADDER = [
    ("refuse()", "mapped twice"),
    ("refuse(MAPPED_TWICE)", "file in memory"),
    ("refuse(BECOMES_EXECUTABLE)", "file in memory"),
    ("refuse(MAPPED_TWICE, FILE_IN_MEMORY)", "file without a name"),
    ("refuse(MAPPED_TWICE, FILE_IN_MEMORY, FILE_WITHOUT_NAME)", "written first"),
    ("refuse(MAPPED_TWICE, MAPPED_EXECUTABLE)", "written first"),
]


@pytest.fixture(scope="module")
def objects(compile: Compiler) -> list[Path]:
    """Return objects with different numbers, among them one with many constants."""
    return [
        compile.cxx(
            CODE + (LARGE_CONSTANT if number == 3 else ""), "-O1", "-fPIC", f"-DNUMBER={number}"
        )
        for number in range(6)
    ]


@pytest.fixture
def run(run_script: RunScript) -> Callable[..., str]:
    """Run a script that may import what the tests do."""
    path = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    return lambda *arguments: run_script(*arguments, PYTHONPATH=path)


@pytest.mark.parametrize(
    ("refusal", "way"),
    [
        LADDER[0],
        *(pytest.param(*rung, marks=pytest.mark.matrix) for rung in LADDER[1:]),
        pytest.param("deny_write_execute()", "file in memory", marks=with_mdwe),
    ],
)
def test_the_next_way_serves(
    objects: list[Path], run: Callable[..., str], refusal: str, way: str
) -> None:
    assert run(WAYS, refusal, *objects) == way + "\n"


REFUSED = (
    EXERCISE
    + """
import tvm_ffi_object_loader as tol

path, large = sys.argv[1:]
limits = {"first": [], "later": [tol.Session(), tol.Session()]}
for session in limits["later"]:
    kept = session.load(path), session.load(large)


def state():
    return ways(), len(os.listdir("/proc/self/fd")), session.stats()


def refused(path):
    before = state()
    for _ in range(3):
        try:
            session.load(path)
        except Exception as error:
            print(type(error).__name__, error, sep="|")
        else:
            raise AssertionError("loaded")
    gc.collect()
    assert state() == before


def work():
    # Only of this thread.
    refuse(MAPPED_TWICE, FILE_IN_MEMORY, FILE_WITHOUT_NAME, BECOMES_EXECUTABLE)
    refused(path)
    refused(large)


session = tol.Session()
thread = threading.Thread(target=work)
thread.start()
thread.join()
# It works again where it is allowed.
check(session.load(path), 0)
check(session.load(large), 3)
"""
)


def test_nothing_is_left(objects: list[Path], run: Callable[..., str]) -> None:
    lines = run(REFUSED, objects[0], objects[3]).splitlines()
    assert len(lines) == 6
    for line in lines:
        kind, _, message = line.partition("|")
        assert kind == "ObjectLoaderError"
        for cause in (
            "mremap of size 0: Operation not permitted",
            "memfd_create: Function not implemented",
            "open(O_TMPFILE) in /tmp: Permission denied",
            "mprotect(PROT_EXEC): Permission denied",
            "SELinux",
            "has to be allowed",
        ):
            assert cause in message
        assert str(objects[0]) in message or str(objects[3]) in message


WITHOUT_FENCES = (
    EXERCISE
    + """
import time

refuse(Refused("membarrier", int(sys.argv[1])))
paths = sys.argv[2:]
import tvm_ffi_object_loader as tol

libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(CALLS["membarrier"], 0, 0, 0) == -1
assert ctypes.get_errno() == int(sys.argv[1])
session = tol.Session()
exercise(session, paths)
ended = []


def call_until_closed(functions, number):
    calls = 0
    try:
        while True:
            assert functions[0](0) == number
            assert functions[1](100) == text(number)
            calls += 1
    except tol.SessionClosedError:
        ended.append(calls)


def close_during_calls(rounds):
    for round in range(rounds):
        number = round % count
        dylib = session.load(paths[number])
        functions = dylib["number"], dylib["text"]
        threads = [
            threading.Thread(target=call_until_closed, args=(functions, number)) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.002)
        dylib.close()
        # The code is gone, and something else is there.
        others = [session.load(path) for path in paths]
        for thread in threads:
            thread.join()


close_during_calls(30)
# Threads that call are not there in the child.
dylib = session.load(paths[0])
thread = threading.Thread(target=call_until_closed, args=((dylib["number"], dylib["text"]), 0))
thread.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        dylib.close()
        exercise(session, paths)
        close_during_calls(3)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
dylib.close()
thread.join()
assert len(ended) == 91 and sum(ended) > 91
print(session.stats().bytes_code)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_without_fences_for_all_threads(
    objects: list[Path], run: Callable[..., str], number: int
) -> None:
    """Calls and closes meet in many threads where there is no membarrier."""
    assert run(WITHOUT_FENCES, number, *objects) == "0\n"
