# SPDX-License-Identifier: Apache-2.0
"""Memory of loads: pages are writable or executable, constants read-only, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from compilation import Compiler
from conftest import RunScript
from memory_sources import CXX, LARGE_CONSTANT, THREAD_LOCAL

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
