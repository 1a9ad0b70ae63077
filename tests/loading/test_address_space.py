# SPDX-License-Identifier: Apache-2.0
"""Where address space runs out or is in fragments, a load raises MemoryError or works."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from compilation import Compiler
from conftest import RunScript
from memory_sources import CXX, THREAD_LOCAL
from processors import PROCESSOR, needs_address_space_limit

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


@pytest.mark.slow
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


@pytest.mark.slow
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
