# SPDX-License-Identifier: Apache-2.0
"""Where memory runs out, a load raises MemoryError or works, and nothing is lost."""

from __future__ import annotations

import errno
import struct
import subprocess
from pathlib import Path

import pytest

from compilation import Compiler
from conftest import RunScript
from processors import PROCESSOR, needs_address_space_limit

CXX = """
#include "safe_call.h"
#include <stdexcept>
#include <string>
static std::string text(100, 'x');
struct Static { ~Static() { text.clear(); } };
EXPORT(add) {
  static Static object;
  try {
    if (INT(0) < 0) throw std::runtime_error(text);
  } catch (const std::exception&) {
    RETURN(-1);
  }
  RETURN(INT(0) + INT(1));
}
"""
THREAD_LOCAL = """
#include "safe_call.h"
_Thread_local int64_t last = 40;
EXPORT(add) { last = INT(0) + INT(1); RETURN(last); }
"""
# Linking it takes far more memory than malloc has at hand.
MANY = (
    '#include "safe_call.h"\nEXPORT(add) { RETURN(INT(0) + INT(1)); }\nint f0(void) { return 0; }\n'
    + "".join(f"int f{i}(void) {{ return f{i - 1}() + {i}; }}\n" for i in range(1, 2_000))
)

# Each of the limits is tried in a child, so that all of them meet the same process; `load_all` is
# whatever the case is about. A child ends with 0 for a load that worked and 1 for a MemoryError.
LIMITS = """
import ctypes, os, resource, signal, sys, threading
import tvm_ffi_object_loader as tol

content, small = (open(path, "rb").read() for path in sys.argv[1:3])
copies, kept_loads, most, step = (int(number) for number in sys.argv[3:])
session = tol.Session()
keys = ("dylibs", "objects", "symbols", "bytes_code", "bytes_constants", "bytes_data")


def load():
    dylibs = []
    for _ in range(copies):
        dylibs.append(session.load(content))
        assert dylibs[-1]["add"](20, 22) == 42
    return dylibs


def address_space():
    return int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def limit(bytes):
    resource.setrlimit(resource.RLIMIT_AS, (bytes, resource.RLIM_INFINITY))


def attempt(room):
    kept = [session.load(content) for _ in range(kept_loads)]
    before = session.stats().as_dict()
    limit(address_space() + room)
    dylibs, outcome = None, 0
    try:
        dylibs = load()
    except MemoryError as error:
        outcome = 1
    del dylibs
    after = session.stats().as_dict()
    limit(resource.RLIM_INFINITY)
    assert [after[key] for key in keys] == [before[key] for key in keys]
    # Nothing is lost, in this thread and, since no lock is left taken, in others.
    works = []
    thread = threading.Thread(target=lambda: works.append(load()))
    thread.start()
    thread.join(60)
    assert works
    del kept
    load()
    return outcome


session.load(small)
outcomes = []
for room in range(0, most << 10, step << 10):
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        outcome = 9
        try:
            outcome = attempt(room)
        except BaseException as error:
            print(f"{room >> 10} kB:", repr(error), flush=True)
        os._exit(outcome)
    status = os.waitpid(child, 0)[1]
    assert not os.WIFSIGNALED(status), (room >> 10, os.WTERMSIG(status))
    outcomes.append(os.WEXITSTATUS(status))
print(*outcomes)
"""


@needs_address_space_limit
@pytest.mark.parametrize(("source", "most"), [("c++", 8), ("thread-local", 8), ("many", 64)])
def test_address_space_runs_out_in_a_load(
    compile: Compiler, run_script: RunScript, add_object: Path, source: str, most: int
) -> None:
    path = {
        "c++": lambda: compile.cxx(CXX),
        "thread-local": lambda: compile(THREAD_LOCAL),
        "many": lambda: compile(MANY, "-O0", "-fPIC", "-ffunction-sections"),
    }[source]()
    outcomes = run_script(LIMITS, path, add_object, 1, 0, most * 1000, most * 10).split()
    # The smallest limits are too small, the largest ones are not, and there is nothing in between.
    assert set(outcomes) == {"0", "1"}
    assert outcomes == sorted(outcomes, reverse=True)


@needs_address_space_limit
def test_address_space_runs_out_before_the_first_load(
    compile: Compiler, run_script: RunScript, add_object: Path
) -> None:
    script = LIMITS.replace(
        "def load():\n", "def load():\n    session = tol.Session()  # has no memory yet\n"
    )
    assert script != LIMITS
    outcomes = run_script(script, compile.cxx(CXX), add_object, 1, 0, 40_000, 400).split()
    assert set(outcomes) == {"0", "1"}
    assert outcomes == sorted(outcomes, reverse=True)


@needs_address_space_limit
@pytest.mark.slow
def test_address_space_runs_out_among_many_loads(
    compile: Compiler, run_script: RunScript, add_object: Path
) -> None:
    outcomes = run_script(LIMITS, compile.cxx(CXX), add_object, 2_000, 100, 200_000, 4_000).split()
    assert set(outcomes) == {"0", "1"}
    assert outcomes == sorted(outcomes, reverse=True)


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


# More than 256 KiB of constants are ordinary memory, protected once written.
LARGE_CONSTANT = """
extern "C" {
extern const char large_constant[1 << 20];
const char large_constant[1 << 20] = {7};
}
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


LARGE_TLS = """
import os, resource, sys
import tvm_ffi_object_loader as tol

session = tol.Session()
session.load(sys.argv[2])
for megabytes in (20, 60, 100, 150, 200, 250, 300, 350, 400, 450, 500):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, megabytes
        continue
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)
    try:
        session.load(sys.argv[1])
    except MemoryError as error:
        assert "thread-local" in str(error), error
        print("refused")
    except tol.LinkError as error:
        assert "static TLS" in str(error), error
        print("refused")
    else:
        print("loaded")
    sys.stdout.flush()
    assert session.load(sys.argv[2])["add"](20, 22) == 42
    os._exit(0)
"""


@needs_address_space_limit
def test_thread_local_variables_far_apart_are_refused_in_full(
    compile: Compiler, run_script: RunScript, tmp_path: Path
) -> None:
    parts = "".join(
        f'.section .tdata.{i},"awT",@progbits\n.balign 8\n.globl v{i}\nv{i}: .quad {i}\n'
        for i in range(100)
    )
    *_, access, _ = PROCESSOR.thread_local_accesses
    uses = "".join(access.replace("ordinary", f"v{i}") + "\n" for i in range(100))
    text = parts + f".text\n.globl __tvm_ffi_get\n__tvm_ffi_get:\n{uses}ret\n"
    source, obj = tmp_path / "far_apart.s", tmp_path / "far_apart.o"
    source.write_text(text + '.section .note.GNU-stack,"",@progbits\n')
    subprocess.run(["gcc", "-c", source, "-o", obj], check=True)
    content = bytearray(obj.read_bytes())
    # A file of a few kB: alignments that the assembler would fill up with zeros.
    (headers,), (count,) = (
        struct.unpack_from("<Q", content, 40),
        struct.unpack_from("<H", content, 60),
    )
    for header in range(headers, headers + 64 * count, 64):
        if struct.unpack_from("<Q", content, header + 8)[0] & 0x400:  # SHF_TLS
            struct.pack_into("<Q", content, header + 48, 2 << 20)
    obj.write_bytes(content)
    assert obj.stat().st_size < 30_000
    output = run_script(LARGE_TLS, obj, compile.cxx(CXX))
    assert output.split() == ["refused"] * 11


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


FRAGMENTED = """
import ctypes, sys
import tvm_ffi_object_loader as tol

MAP_FIXED_NOREPLACE, MAP_PRIVATE_ANONYMOUS = 0x100000, 0x22
HOLE, REACH, PAGE = 8 << 20, 1 << 31, 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


def mappings():
    for line in open("/proc/self/maps"):
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first < 1 << 47:
            yield first, last


content = open(sys.argv[1], "rb").read()
wanted = set()
existing = list(mappings())
for first, last in existing:
    start = max(first - REACH - HOLE, 1 << 20) // HOLE * HOLE
    wanted.update(range(start, last + REACH + HOLE, HOLE))
for address in sorted(wanted):
    # Where something is already, it is refused, and there is no hole either.
    libc.mmap(address, PAGE, 0, MAP_PRIVATE_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)

session = tol.Session()
for _ in range(600):  # more than one arena's worth
    dylib = session.load(content)
    assert dylib["add"](20, 22) == 42 and dylib["add"](-1, 0) == -1
    address = dylib.lookup("__tvm_ffi_add")
    assert all(abs(address - place) > REACH for range in existing for place in range)
kept = [session.load(content) for _ in range(2_000)]
assert all(dylib["add"](20, 22) == 42 and dylib["add"](-1, 0) == -1 for dylib in kept)
print(session.stats().bytes_reserved > 12 << 20)
"""


def test_no_room_within_reach_of_what_is_mapped(compile: Compiler, run_script: RunScript) -> None:
    assert run_script(FRAGMENTED, compile.cxx(CXX)) == "True\n"


WRITABLE_AND_EXECUTABLE = """
import sys, threading
import tvm_ffi_object_loader as tol

content = open(sys.argv[1], "rb").read()
done = False
seen = {"executable": 0, "writable": 0}


def both():
    found = []
    for line in open("/proc/self/maps"):
        permissions = line.split()[1]
        if "w" in permissions and "x" in permissions:
            found.append(line)
        if "/dev/zero" in line:
            seen["executable"] += "x" in permissions
            seen["writable"] += "w" in permissions
    return found


def load():
    while not done:
        with tol.Session() as session:
            for _ in range(20):
                assert session.load(content)["add"](20, 22) == 42


assert both() == []
threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads:
    thread.start()
found = [line for _ in range(300) for line in both()]
done = True
for thread in threads:
    thread.join()
assert found == [], found
print(seen["executable"] > 0 and seen["writable"] > 0)
"""


LARGE_CONSTANTS = """
import ctypes, os, sys
import tvm_ffi_object_loader as tol


def permissions(address):
    for line in open("/proc/self/maps"):
        range_, permissions = line.split()[:2]
        first, last = (int(part, 16) for part in range_.split("-"))
        if first <= address < last:
            return permissions


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


gone = {None, "---p"}
session = tol.Session()
before = session.stats()
for turn in range(3):
    dylib = session.load(sys.argv[1])
    assert dylib["add"](20, 22) == 42
    address = dylib.lookup("large_constant")
    assert ctypes.string_at(address, 1 << 20) == b"\\7" + bytes((1 << 20) - 1)
    assert permissions(address) == permissions(address + (1 << 20) - 1) == "r--p"
    if turn == 2:
        child = os.fork()
        if child == 0:
            del dylib
            os._exit(permissions(address) not in gone)
        assert os.waitpid(child, 0)[1] == 0
    del dylib
    assert permissions(address) in gone
assert session.stats().bytes_constants == before.bytes_constants == 0

# The pages of a few such loads are kept for the next ones, not those of all.
session.load(sys.argv[1])
few = resident()
kept = [session.load(sys.argv[1]) for _ in range(40)]
addresses = [dylib.lookup("large_constant") for dylib in kept]
assert {permissions(address) for address in addresses} == {"r--p"}
assert resident() > few + (30 << 20)
del kept
assert {permissions(address) for address in addresses} <= gone
assert resident() < few + (16 << 20)
# Used again, they hold what was loaded, and nothing of before.
kept = [session.load(sys.argv[1]) for _ in range(40)]
for dylib in kept:
    address = dylib.lookup("large_constant")
    assert ctypes.string_at(address, 1 << 20) == b"\\7" + bytes((1 << 20) - 1)
    assert not any(ctypes.string_at(dylib.lookup("large_zeros"), 1 << 19))
    ctypes.memset(dylib.lookup("large_zeros"), 1, 1 << 19)
del kept, dylib
session.close()
assert session.stats().bytes_reserved == before.bytes_reserved == 0
assert permissions(address) is None
session = tol.Session()

# The room of small loads is kept for the next one, whatever else is loaded.
large, small = session.load(sys.argv[1]), session.load(sys.argv[2])
reserved = session.stats().bytes_reserved
del small
assert session.stats().bytes_reserved == reserved
"""


def test_large_constants_are_read_only_and_go_with_their_load(
    compile: Compiler, run_script: RunScript
) -> None:
    large = LARGE_CONSTANT + 'extern "C" char large_zeros[1 << 19] = {};'
    run_script(LARGE_CONSTANTS, compile.cxx(CXX + large), compile.cxx(CXX))


def test_no_page_is_ever_writable_and_executable(compile: Compiler, run_script: RunScript) -> None:
    assert run_script(WRITABLE_AND_EXECUTABLE, compile.cxx(CXX)) == "True\n"
    assert run_script(WRITABLE_AND_EXECUTABLE, compile(THREAD_LOCAL)) == "True\n"


REFUSALS = """
import os
import sys
import tvm_ffi_object_loader as tol

kind, *paths = sys.argv[1:]
contents = [open(path, "rb").read() for path in paths]
error = getattr(tol, kind)
session = tol.Session()
dylib = session.load(contents[0])
refused = contents[1:]
attempts = [(dylib.load, refused), (session.load, refused)]
if kind == "DuplicateSymbolError":
    attempts.append((dylib.load, refused[:1]))  # of what the dylib has, not of each other


def refuse():
    for load, objects in attempts:
        try:
            load(objects)
        except tol.ObjectLoaderError as caught:
            assert type(caught) is error, caught
        else:
            raise AssertionError("loaded")


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


for _ in range(300):  # until malloc and the tables have their size
    refuse()
stats, before = session.stats(), resident()
for _ in range(1_000):
    refuse()
assert session.stats() == stats, (session.stats(), stats)
assert dylib["add"](20, 22) == 42
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["ObjectFormatError", "UndefinedSymbolError", "DuplicateSymbolError", "LinkError"]
)
def test_a_thousand_refusals_leave_no_memory_behind(
    compile: Compiler, run_script: RunScript, tmp_path: Path, kind: str
) -> None:
    good = compile.cxx(CXX)
    sources = {
        "UndefinedSymbolError": "int missing(int);\nint user(void) { return missing(1); }\n",
        # A quarter of an address has no room for the whole: found out after memory was taken.
        "LinkError": '__asm__(".globl f\\nf: ret\\n .data\\n .globl d\\nd: .short f");\n',
    }
    refused = [good, good]
    if kind == "ObjectFormatError":
        truncated = tmp_path / "truncated.o"
        truncated.write_bytes(good.read_bytes()[:-100])
        refused = [truncated]
    elif kind in sources:
        refused = [compile(sources[kind]), compile.cxx(CXX.replace("(add)", "(other)"))]
    assert int(run_script(REFUSALS, kind, good, *refused)) < 1 << 20
