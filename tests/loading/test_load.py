# SPDX-License-Identifier: Apache-2.0
"""What `load` takes, that it reads it once, and that it succeeds whole or not at all."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from conftest import ADD, RunScript, Trace

EVEN_ODD = [
    """
    #include "safe_call.h"
    int is_odd(int64_t n);
    int is_even(int64_t n) { return n == 0 ? 1 : is_odd(n - 1); }
    EXPORT(even) { RETURN(is_even(INT(0))); }
    """,
    """
    #include "safe_call.h"
    int is_even(int64_t n);
    int is_odd(int64_t n) { return n == 0 ? 0 : is_even(n - 1); }
    EXPORT(odd) { RETURN(is_odd(INT(0))); }
    """,
]
COUNTER = """
#include "safe_call.h"
int64_t counter = 100;
EXPORT(count) { RETURN(++counter); }
"""
DOUBLE_COUNT = """
#include "safe_call.h"
extern int64_t counter;
EXPORT(double_count) { RETURN(2 * counter); }
"""
NEEDS_MISSING = """
#include "safe_call.h"
#include "trace.h"
int64_t missing_function(int64_t);
int64_t defined_beside_missing = 7;
__attribute__((constructor)) static void init(void) { trace(1); }
__attribute__((destructor)) static void fini(void) { trace(2); }
EXPORT(broken) { RETURN(missing_function(INT(0))); }
"""
DEFINES_MISSING = """
#include "safe_call.h"
int64_t missing_function(int64_t n) { return n + 1; }
"""


@pytest.mark.parametrize(
    "convert",
    [
        str,
        Path,
        Path.read_bytes,
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        lambda path: [str(path)],
        lambda path: (path,),
        lambda path: [path.read_bytes()],
    ],
    ids=["str", "Path", "bytes", "bytearray", "memoryview", "list", "tuple", "list of bytes"],
)
def test_every_form_of_input(
    session: tol.Session, add_object: Path, convert: Callable[[Path], Any]
) -> None:
    assert session.load(convert(add_object))["add"](2, 3) == 5


def test_path_like_object(session: tol.Session, add_object: Path) -> None:
    class Artifact:
        def __fspath__(self) -> str:
            return str(add_object)

    assert session.load(Artifact())["add"](2, 3) == 5


@pytest.mark.parametrize(
    "name", ["with space.o", "ünïcode.o", "no_extension", os.fsdecode(b"\xff.o")]
)
def test_any_file_name(session: tol.Session, add_object: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(add_object, tmp_path / name)
    assert session.load(tmp_path / name)["add"](2, 3) == 5


def test_relative_path(
    session: tol.Session, add_object: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(add_object.parent)
    assert session.load(add_object.name)["add"](2, 3) == 5


def test_objects_given_together_refer_to_each_other(
    session: tol.Session, compile: Compiler
) -> None:
    even, odd = (compile(source) for source in EVEN_ODD)
    dylib = session.load([even, odd.read_bytes()])
    assert dylib.functions == ["even", "odd"]
    assert [dylib["even"](10), dylib["odd"](10), dylib["odd"](7)] == [1, 0, 1]


def test_the_order_of_objects_given_together_does_not_matter(
    session: tol.Session, compile: Compiler
) -> None:
    user, definer = compile(DOUBLE_COUNT), compile(COUNTER)
    assert session.load([user, definer])["double_count"]() == 200
    assert session.load([definer, user])["double_count"]() == 200


def test_a_later_load_adds_to_the_dylib(session: tol.Session, compile: Compiler) -> None:
    dylib = session.create_dylib("grows")
    dylib.load(compile(COUNTER))
    count = dylib["count"]
    assert count() == 101
    dylib.load(compile(DOUBLE_COUNT))
    assert dylib["double_count"]() == 202
    assert count() == 102
    assert dylib.functions == ["count", "double_count"]


def test_loads_of_the_same_object_are_independent(session: tol.Session, compile: Compiler) -> None:
    first, second = session.load(compile(COUNTER)), session.load(compile(COUNTER))
    assert first["count"]() == 101
    assert first["count"]() == 102
    assert second["count"]() == 101


@pytest.mark.parametrize("change", ["truncate", "delete", "rewrite", "replace"])
def test_a_file_changed_after_the_load_changes_nothing(
    session: tol.Session, compile: Compiler, tmp_path: Path, change: str
) -> None:
    path = tmp_path / "k.o"
    shutil.copy(compile(COUNTER), path)
    dylib = session.load(path)
    match change:
        case "truncate":
            os.truncate(path, 0)
        case "delete":
            path.unlink()
        case "rewrite":
            path.write_bytes(b"\xcc" * path.stat().st_size)
        case "replace":
            shutil.copy(compile(ADD), tmp_path / "new.o")
            (tmp_path / "new.o").replace(path)
    assert dylib.functions == ["count"]
    assert dylib["count"]() == 101


def test_a_buffer_changed_after_the_load_changes_nothing(
    session: tol.Session, compile: Compiler
) -> None:
    buffer = bytearray(compile(COUNTER).read_bytes())
    dylib = session.load(buffer)
    buffer[:] = b"\xcc" * len(buffer)
    assert dylib["count"]() == 101
    buffer.clear()  # a BufferError if the load still held an export of it


def test_loading_keeps_no_file_open(session: tol.Session, add_object: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    dylib = session.load(add_object)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert dylib["add"](1, 1) == 2


def test_linking_is_eager(session: tol.Session, compile: Compiler) -> None:
    with pytest.raises(tol.UndefinedSymbolError):
        session.load(compile(NEEDS_MISSING))


def test_a_failed_load_leaves_the_dylib_as_it_was(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    dylib = session.load(compile(COUNTER))
    broken, good = compile(NEEDS_MISSING), compile(ADD)
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.load([good, broken])  # once before, for what a first failure allocates for good
    functions, stats = dylib.functions, session.stats()

    with pytest.raises(tol.UndefinedSymbolError):
        dylib.load([good, broken])

    assert dylib.functions == functions == ["count"]
    assert session.stats() == stats
    for symbol in ("defined_beside_missing", "__tvm_ffi_broken", "__tvm_ffi_add"):
        with pytest.raises(tol.ObjectLoaderError, match=symbol):
            dylib.lookup(symbol)
    assert trace.take() == []
    assert dylib["count"]() == 101


def test_what_a_failed_load_defined_can_be_loaded_next(
    session: tol.Session, compile: Compiler, trace: Trace
) -> None:
    dylib = session.load(compile(COUNTER))
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.load(compile(NEEDS_MISSING))
    dylib.load([compile(NEEDS_MISSING), compile(DEFINES_MISSING)])
    assert trace.take() == [1]
    assert dylib["broken"](1) == 2


def test_a_duplicate_leaves_the_dylib_as_it_was(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(compile(COUNTER))
    with pytest.raises(tol.DuplicateSymbolError):
        dylib.load([compile(ADD), compile(COUNTER)])
    assert dylib.functions == ["count"]
    assert dylib["count"]() == 101
    dylib.load(compile(ADD))
    assert dylib["add"](1, 2) == 3


def test_the_name_of_a_failed_load_is_free(session: tol.Session, compile: Compiler) -> None:
    with pytest.raises(tol.UndefinedSymbolError):
        session.load(compile(NEEDS_MISSING), name="impl")
    assert "impl" not in session.dylibs
    assert session.load(compile(ADD), name="impl")["add"](1, 2) == 3


def test_many_failed_loads_leave_no_memory_behind(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(compile(COUNTER))
    broken = compile(NEEDS_MISSING).read_bytes()
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.load(broken)
    stats = session.stats()
    for _ in range(200):
        with pytest.raises(tol.UndefinedSymbolError):
            dylib.load(broken)
    assert session.stats() == stats


# Each load's code addresses its own data, its 3 MB of zeros and, for the static destructor,
# __dso_handle with 32-bit offsets.
IN_RANGE = """
#include "safe_call.h"
static char zeros[3 << 20];
static int64_t table[4] = {1, 2, 3, 4};
namespace {
struct Static {
  int64_t value;
  Static() : value(10) {}
  ~Static() { value = 0; }
};
Static object;
}  // namespace
#ifdef SHARED
inline int64_t shared_by_all_loads = 0;
inline __attribute__((noinline)) int64_t add_nothing() { return shared_by_all_loads; }
#else
static int64_t add_nothing() { return 0; }
#endif
EXPORT(NAME) {
  zeros[INT(0)] = 1;
  static Static local;
  RETURN(zeros[INT(0)] + table[INT(0) & 3] + object.value + local.value + add_nothing());
}
"""
FRAGMENT = """
import ctypes, sys
import tvm_ffi_object_loader as tol

MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x02, 0x20, 0x4000, 0x100000
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]


def reserve(address, size):
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    flags |= MAP_FIXED_NOREPLACE if address else 0
    return libc.mmap(address, size, 0, flags, -1, 0)


def fill_gaps_around(address, distance=5 << 29):
    spans = []
    for line in open("/proc/self/maps"):
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        spans.append((start, end, line))
    for (_, start, below), (end, _, above) in zip(spans, spans[1:]):
        start, end = max(start, address - distance), min(end, address + distance)
        if start < end and "[heap]" not in below and "[stack]" not in above:  # these two grow
            reserve(start, end - start)


objects = sys.argv[1:]
with tol.Session() as session:
    dylib = session.create_dylib("scattered")
    for number, path in enumerate(objects):
        if number % 2:
            fill_gaps_around(dylib.lookup(f"__tvm_ffi_f{number - 1}"))
        reserve(None, 3 << 30)
        dylib.load(path)
        other = session.load(path)
        assert other[f"f{number}"](5) == 1 + 2 + 10 + 10
        for earlier in range(number + 1):
            assert dylib[f"f{earlier}"](5) == 1 + 2 + 10 + 10
print("ok")
"""


def test_code_reaches_its_data_in_a_fragmented_address_space(
    compile: Compiler, run_script: RunScript
) -> None:
    objects = [
        compile.cxx(IN_RANGE, "-O2", *flags, f"-DNAME=f{2 * number + bool(flags)}")
        for number in range(8)
        for flags in ((), ("-fPIC", "-DSHARED"))
    ]
    assert run_script(FRAGMENT, *objects) == "ok\n"


def test_an_object_with_nothing_in_it(
    session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    empty = compile("\n", language="assembler")
    session.load(empty).close()
    # Nothing that could be placed in memory either.
    bare = tmp_path / "bare.o"
    removed = [f"--remove-section={name}" for name in (".text", ".data", ".bss")]
    subprocess.run(["objcopy", *removed, empty, bare], check=True)
    dylib = session.load([empty, bare])
    dylib.load(bare)
    assert dylib.functions == []
    dylib.close()


HUGE = """
import sys
import tvm_ffi_object_loader as tol


def resident() -> int:
    return next(
        int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmRSS")
    )


with tol.Session() as session:
    session.load(sys.argv[2])
    before = resident()
    run = session.load(sys.argv[1])["run"]
    assert run((1 << 30) - 1) == 1
    assert run(0) == 1
    print(resident() - before < 4 << 20)
"""


def test_a_large_bss_takes_memory_only_where_it_is_used(
    compile: Compiler, add_object: Path, run_script: RunScript
) -> None:
    source = """
    #include "safe_call.h"
    static char zeros[1 << 30];
    EXPORT(run) { RETURN(++zeros[INT(0)]); }
    """
    assert run_script(HUGE, compile(source), add_object) == "True\n"


@pytest.mark.parametrize("size", [100, 300_000], ids=["small", "large"])
@pytest.mark.parametrize("alignment", [128, 8192, 65536, 1 << 21])
def test_constants_data_and_code_are_aligned(
    session: tol.Session, compile: Compiler, alignment: int, size: int
) -> None:
    source = f"""
    #include "safe_call.h"
    #define ALIGNED __attribute__((aligned({alignment})))
    const char first = 1;
    ALIGNED const char constant[{size}] = {{2, 3}};
    ALIGNED char data[{size}] = {{4, 5}};
    ALIGNED char zeros[{size}];
    ALIGNED int64_t code(int64_t n) {{ return n + constant[1] + data[1] + zeros[1]; }}
    EXPORT(sum) {{ RETURN(code(INT(0))); }}
    """
    path = compile(source)
    dylibs = []
    for _ in range(5):
        dylibs.append(session.load(compile(COUNTER)))  # so that places move
        dylib = session.load(path)
        dylibs.append(dylib)
        assert dylib["sum"](100) == 108
        for symbol in ("constant", "data", "zeros", "code"):
            assert dylib.lookup(symbol) % alignment == 0, symbol
        content = ctypes.string_at(dylib.lookup("constant"), size)
        assert content == bytes([2, 3]) + bytes(size - 2)
