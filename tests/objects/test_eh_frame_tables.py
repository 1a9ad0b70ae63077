# SPDX-License-Identifier: Apache-2.0
"""Tables of unwind records: several, empty or missing, and those of functions that are dropped."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, TOOLCHAINS, Compiler, Toolchain
from frames import FRAMES
from partial_links import PARTIAL, Merge
from partial_links import merge as merge
from throwers import THROWER, agree, end, thrower

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize("ended", [False, True])
def test_tables_that_a_partial_link_keeps_apart(
    session: tol.Session, compile: Compiler, merge: Merge, ended: bool
) -> None:
    plain = [thrower(compile, name) for name in "abc"]
    ending = [end(compile)] if ended else []
    merged = merge("GNU ld", plain[0], *ending, plain[1], flags=("--unique=.eh_frame",))
    agree(session, compile, [merged], "ab", plain)
    agree(session, compile, [merged, plain[2]], "abc", plain)
    agree(session, compile, [plain[2], merged], "abc", plain)


@pytest.mark.parametrize("order", ["eab", "aeb", "abe", "eaebe"])
@pytest.mark.parametrize("kind", ["@progbits", FRAMES.section_type, "@nobits"])
def test_an_empty_table(session: tol.Session, compile: Compiler, order: str, kind: str) -> None:
    empty = end(compile, "", kind)
    throwers = {name: thrower(compile, name) for name in "ab"}
    objects = [empty if letter == "e" else throwers[letter] for letter in order]
    agree(session, compile, objects, "ab", objects)
    assert session.load(empty) is not None


def test_an_empty_table_within_an_object(session: tol.Session, compile: Compiler) -> None:
    empty = '__asm__(".section .eh_frame, \\"a\\", @progbits, unique, 7\\n .text");\n'
    odd = thrower(compile, "a", text=THROWER + empty)
    agree(session, compile, [odd], "a", [odd])
    agree(session, compile, [odd, thrower(compile, "b")], "ab", [odd, thrower(compile, "b")])


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_a_writable_table(
    session: tol.Session, compile: Compiler, tmp_path: Path, toolchain: Toolchain
) -> None:
    path = thrower(compile, "a", toolchain=toolchain)
    writable = tmp_path / "writable.o"
    flags = "--set-section-flags=.eh_frame=alloc,load,data,contents"
    subprocess.run(["objcopy", flags, path, writable], check=True)
    agree(session, compile, [writable], "a", [writable])
    b = thrower(compile, "b")
    agree(session, compile, [writable, b], "ab", [writable, b])


# Functions that are dropped, and their records with them.

SHARED = """
#include <stdexcept>
#include <string>
#include <vector>
#include "safe_call.h"
inline __attribute__((noinline)) int64_t fails(int64_t n) {
  static int64_t calls = 0;
  std::vector<std::string> texts(++calls, "a text that is too long for its object to hold");
  if (n == 1) throw std::out_of_range(texts[0]);
  if (n == 2) throw n;
  return n;
}
template <typename T> __attribute__((noinline)) int64_t passes(T n) {
  std::string text = "another text that is too long for its object to hold";
  try {
    return fails(n);
  } catch (const char*) {
    return text.size();
  }
}
EXPORT(EXPORTED) {
  int64_t result;
  try {
    result = passes(INT(0)) + FACTOR;
  } catch (const std::exception& error) {
    result = std::string(error.what()).size() * FACTOR;
  } catch (int64_t n) {
    result = n * FACTOR;
  }
  RETURN(result);
}
"""


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2"])
@pytest.mark.parametrize("ended", [False, True], ids=["", "with ends"])
@pytest.mark.parametrize("compilers", ["gcc", "clang", "mixed"])
def test_groups_that_are_dropped(
    session: tol.Session, compile: Compiler, compilers: str, ended: bool, level: str
) -> None:
    if compilers != "gcc" and CLANG is None:
        pytest.skip("no clang")
    clang = TOOLCHAINS[-1]
    makes = {"gcc": [GCC] * 3, "clang": [clang] * 3, "mixed": [GCC, clang, GCC]}[compilers]
    objects = [
        thrower(compile, name, level, "-fPIC", toolchain=toolchain, text=SHARED)
        for name, toolchain in zip("abc", makes, strict=True)
    ]
    with_ends = objects
    if ended:
        with_ends = [part for each in objects for part in (each, end(compile))]
    agree(session, compile, with_ends, "abc", objects)


@pytest.mark.parametrize("ended", [False, True], ids=["", "with ends"])
@pytest.mark.parametrize("linker", PARTIAL)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_groups_that_a_partial_link_drops(
    session: tol.Session,
    compile: Compiler,
    merge: Merge,
    toolchain: Toolchain,
    linker: str,
    ended: bool,
) -> None:
    objects = [thrower(compile, name, toolchain=toolchain, text=SHARED) for name in "abc"]
    ending = [end(compile)] if ended else []
    merged = merge(linker, objects[0], *ending, objects[1])
    agree(session, compile, [merged], "ab", objects)
    # Here both sides have the group.
    agree(session, compile, [merged, objects[2]], "abc", objects)
    agree(session, compile, [objects[2], *ending, merged], "abc", objects)


# Objects without records beside others.

WITHOUT = """
#include "safe_call.h"
int64_t plain(int64_t n) { return n * 3; }
EXPORT(run_plain) { RETURN(plain(INT(0)) + 1); }
"""


@pytest.mark.parametrize("how", ["flag", "removed", "debug only"])
@pytest.mark.parametrize("order", ["eab", "aeb", "abe", "eaebe"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_objects_without_records(
    session: tol.Session,
    compile: Compiler,
    tmp_path: Path,
    toolchain: Toolchain,
    order: str,
    how: str,
) -> None:
    flags = ("-O2", "-fPIC", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
    if how == "removed":
        without = tmp_path / "without.o"
        path = compile(WITHOUT, toolchain=toolchain)
        subprocess.run(["objcopy", "--remove-section=.eh_frame", path, without], check=True)
    else:
        debug = ("-g",) if how == "debug only" else ()
        without = compile(WITHOUT, *flags, *debug, toolchain=toolchain)
    ending, a, b = end(compile), thrower(compile, "a"), thrower(compile, "b", toolchain=toolchain)
    objects = [{"e": ending, "a": a, "b": b}[letter] for letter in order]
    agree(session, compile, [without, *objects], "ab", [a, b])
    agree(session, compile, [*objects, without], "ab", [a, b])
    dylib = session.load([*objects[:2], without, *objects[2:]])
    assert [dylib["run_plain"](4), dylib["run_a"](2), dylib["run_b"](2)] == [13, 20, 2000]


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_tables_for_exceptions_only(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    flags = ("-O2", "-fPIC", "-fno-asynchronous-unwind-tables")
    objects = [thrower(compile, name, *flags, toolchain=toolchain) for name in "ab"]
    agree(session, compile, [objects[0], end(compile), objects[1]], "ab", objects)
    plain = compile(WITHOUT, *flags, toolchain=toolchain)
    agree(session, compile, [plain, *objects], "ab", objects)
