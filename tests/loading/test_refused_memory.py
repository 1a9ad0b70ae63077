# SPDX-License-Identifier: Apache-2.0
"""Where the system refuses memory or files, a load raises MemoryError or works; nothing is lost."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from compilation import Compiler
from conftest import RunScript
from memory_sources import CXX, LARGE_CONSTANT, THREAD_LOCAL

# The calls of this process that map memory, each of which can be made to fail.
FAILING_CALLS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

static long calls, first, last;
static int error_number;

void fail_calls(long from, long to, int number) {
  calls = 0;
  first = from;
  last = to;
  error_number = number;
}
long count_calls(void) { return calls; }

static int fails(void) {
  ++calls;
  if (calls < first || calls > last) return 0;
  errno = error_number;
  return 1;
}

void* mmap(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  static void* (*next)(void*, size_t, int, int, int, off_t);
  if (!next) next = dlsym(RTLD_NEXT, "mmap");
  return fails() ? MAP_FAILED : next(at, size, protection, flags, file, offset);
}

int mprotect(void* at, size_t size, int protection) {
  static int (*next)(void*, size_t, int);
  if (!next) next = dlsym(RTLD_NEXT, "mprotect");
  return fails() ? -1 : next(at, size, protection);
}

void* mremap(void* at, size_t old_size, size_t size, int flags, ...) {
  static void* (*next)(void*, size_t, size_t, int, void*);
  if (!next) next = dlsym(RTLD_NEXT, "mremap");
  va_list arguments;
  va_start(arguments, flags);
  void* to = va_arg(arguments, void*);
  va_end(arguments);
  return fails() ? MAP_FAILED : next(at, old_size, size, flags, to);
}

int memfd_create(const char* name, unsigned flags) {
  static int (*next)(const char*, unsigned);
  if (!next) next = dlsym(RTLD_NEXT, "memfd_create");
  return fails() ? -1 : next(name, flags);
}

int ftruncate(int file, off_t size) {
  static int (*next)(int, off_t);
  if (!next) next = dlsym(RTLD_NEXT, "ftruncate");
  return fails() ? -1 : next(file, size);
}
"""
REFUSED_CALLS = """
import ctypes, errno, os, sys
import tvm_ffi_object_loader as tol

content = open(sys.argv[1], "rb").read()
faults = ctypes.CDLL(None)
NEVER = (1 << 60, 0, 0)
counts = []


def fail_calls(*arguments):
    faults.fail_calls(ctypes.c_long(arguments[0]), ctypes.c_long(arguments[1]), arguments[2])


def load():
    session = tol.Session()
    before = session.stats(), os.listdir("/proc/self/fd")
    try:
        dylib = session.load(content)
        assert dylib["add"](20, 22) == 42
        counts.append(faults.count_calls())  # without those of dropping it, which may fail
        return "works"
    except (MemoryError, tol.ObjectLoaderError) as error:
        fail_calls(*NEVER)
        # The copy of the file is memory like any other: nobody forbids it.
        is_short = number == errno.ENOMEM or "no memory for the" in str(error)
        assert type(error) is (MemoryError if is_short else tol.ObjectLoaderError)
        assert (session.stats(), os.listdir("/proc/self/fd")) == before
        assert session.load(content)["add"](20, 22) == 42
        assert os.strerror(number) in str(error) and "bytes" in str(error), error
        return "refused"


load()  # what a process does once
counts.clear()
fail_calls(*NEVER)
load()
(total,) = counts
assert total > 5
for number in (errno.ENOMEM, errno.EPERM, errno.EMFILE):
    for call in range(1, total + 1):
        fail_calls(call, call, number)
        once = load()
        fail_calls(call, 1 << 60, number)
        print(once, load())
"""


@pytest.fixture(scope="module")
def failing_calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library that takes the place of the system calls that map memory."""
    path = tmp_path_factory.mktemp("faults") / "failing_calls.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-x", "c", "-o", str(path), "-", "-ldl"]
    subprocess.run(command, input=FAILING_CALLS, text=True, check=True)
    return path


@pytest.mark.parametrize("more", ["", LARGE_CONSTANT], ids=["small", "large"])
def test_each_call_that_maps_memory_is_refused(
    compile: Compiler, run_script: RunScript, failing_calls: Path, more: str
) -> None:
    output = run_script(REFUSED_CALLS, compile.cxx(CXX + more), LD_PRELOAD=str(failing_calls))
    outcomes = [tuple(line.split()) for line in output.splitlines()]
    # One that goes on failing is told of; after a single failure a second attempt may have worked.
    assert {always for _, always in outcomes} == {"refused"}
    assert {once for once, _ in outcomes} <= {"refused", "works"}


REFUSED_FILES = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

int memfd_create(const char* name, unsigned flags) {
  errno = atoi(getenv("REFUSED"));
  return -1;
}
"""
NO_FILES_IN_MEMORY = """
import resource, sys
import tvm_ffi_object_loader as tol

if sys.argv[2] == "limited":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
for _ in range(3):
    print(tol.Session().load(sys.argv[1])[sys.argv[3]](20, 22))
"""


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EACCES])
@pytest.mark.parametrize("kind", ["code", "thread-local variables"])
def test_files_in_memory_are_not_needed(
    compile: Compiler, run_script: RunScript, tmp_path: Path, number: int, kind: str
) -> None:
    library = tmp_path / "refused_files.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"]
    subprocess.run(command, input=REFUSED_FILES, text=True, check=True)
    env = {"LD_PRELOAD": str(library), "REFUSED": str(number)}
    if kind == "code":
        obj = compile.cxx(CXX)
        assert run_script(NO_FILES_IN_MEMORY, obj, "", "add", **env) == "42\n" * 3
    else:
        obj = compile(
            '#include "safe_call.h"\n_Thread_local int v = 2; EXPORT(get) { RETURN(v += INT(0)); }'
        )
        assert run_script(NO_FILES_IN_MEMORY, obj, "", "get", **env) == "22\n" * 3


def test_no_file_may_be_written(compile: Compiler, run_script: RunScript) -> None:
    assert run_script(NO_FILES_IN_MEMORY, compile.cxx(CXX), "limited", "add") == "42\n" * 3


NO_FILES_LEFT = """
import os, resource, sys
import tvm_ffi_object_loader as tol

content = open(sys.argv[1], "rb").read()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)


def load(source):
    return tol.Session().load(source)["add"](20, 22)


assert load(content) == 42
while (highest := os.dup(0)) < 300:  # the limit is on the number, so leave no gaps below
    pass
open_files = len(os.listdir("/proc/self/fd"))
outcomes = []
for left in range(4):
    for source in (content, sys.argv[1]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + left, limits[1]))
        try:
            outcome = load(source)
        except MemoryError as error:
            assert "Too many open files" in str(error), error
            outcome = "MemoryError"
        except OSError as error:
            assert error.filename == sys.argv[1]
            outcome = error.strerror
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert load(source) == 42
        assert len(os.listdir("/proc/self/fd")) == open_files
        print(outcome)
"""


def test_no_file_can_be_opened(compile: Compiler, run_script: RunScript) -> None:
    plain = run_script(NO_FILES_LEFT, compile.cxx(CXX)).splitlines()
    # Bytes need no file.
    assert plain == ["42", "Too many open files"] + ["42"] * 6
    assert run_script(NO_FILES_LEFT, compile(THREAD_LOCAL)).splitlines() == plain
    # The dynamic linker, which has variables at the same place in every thread, needs one.
    path = compile(THREAD_LOCAL, "-fPIC", "-ftls-model=initial-exec")
    thread_local = run_script(NO_FILES_LEFT, path).splitlines()
    assert thread_local[:2] == ["MemoryError", "Too many open files"]
    assert set(thread_local[2:4]) == {"MemoryError"}
    assert thread_local[4:] == ["42"] * 4
