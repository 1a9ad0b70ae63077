# SPDX-License-Identifier: Apache-2.0
"""Common symbols, in the ordinary and in the large section (SHN_X86_64_LCOMMON)."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from agreement import ARGUMENTS, TYPED, agree
from compilation import TOOLCHAINS, Compiler, Toolchain

pytestmark = pytest.mark.matrix

COMMON_USER = """
#include "safe_call.h"
char big[SIZE];
int small;
long numbers[300];
_Alignas(64) char aligned[200];
long other(int);
EXPORT(run) {
  big[5] += 3;
  ++small;
  numbers[299] += 7;
  aligned[199] += 1;
  long others = other(INT(0));
  RETURN(big[5] + small * 100 + numbers[299] * 1000 + others + (uintptr_t)aligned % 64);
}
"""
COMMON_OTHER = """
char big[SIZE];
int small;
long numbers[5];
char aligned[100];
long other(int n) {
  big[5] += n;
  small += 2;
  numbers[4] += 1;
  return numbers[4] * 100000 + big[SIZE - 1] + aligned[99] * 7;
}
"""
COMMON_FLAGS = {
    "ordinary": ("-O1", "-fPIC", "-fcommon"),
    "large": ("-O1", "-fPIC", "-fcommon", "-mcmodel=medium", "-mlarge-data-threshold=100"),
    "all large": ("-O1", "-fPIC", "-fcommon", "-mcmodel=medium", "-mlarge-data-threshold=1"),
    "defined": ("-O1", "-fPIC", "-fno-common"),
    "typed": ("-O1", "-fPIC", "-fcommon", "-Wa,--elf-stt-common=yes"),
    "large and typed": (
        "-O1",
        "-fPIC",
        "-fcommon",
        "-mcmodel=medium",
        "-mlarge-data-threshold=100",
        "-Wa,--elf-stt-common=yes",
    ),
}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pair
        for pair in itertools.product(COMMON_FLAGS, repeat=2)
        if pair not in (("defined", "defined"), ("ordinary", "ordinary"))
    ],
)
@pytest.mark.parametrize("sizes", [(1 << 20, 1 << 21), (1 << 21, 1 << 20)], ids=["less", "more"])
def test_common_symbols_of_two_objects(
    session: tol.Session, compile: Compiler, first: str, second: str, sizes: tuple[int, int]
) -> None:
    user_size, other_size = sizes
    if "defined" in (first, second):
        user_size = other_size = 1 << 20  # a definition is not made larger
    user = compile(COMMON_USER, *COMMON_FLAGS[first], f"-DSIZE={user_size}")
    other = compile(COMMON_OTHER, *COMMON_FLAGS[second], f"-DSIZE={other_size}")
    for objects in ([user, other], [other, user]):
        if "defined" in (first, second):
            linked = compile.link(*objects, quiet=True)
            dlopened = tvm_ffi.load_module(linked, keep_module_alive=False)
            loaded = session.load(objects)
            results = [loaded["run"](n) for n in ARGUMENTS]
            assert results == [dlopened.run(n) for n in ARGUMENTS]
        else:
            assert agree(session, compile, objects)[0] == 107303


LARGE_ALONE = """
#include "safe_call.h"
char big[1 << 20];
EXPORT(run) { big[5] = 3; RETURN(big[5] + big[6] + INT(0)); }
"""


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("model", ["medium", "large"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_a_large_common_symbol(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, model: str, level: str
) -> None:
    flags = (f"-mcmodel={model}", "-mlarge-data-threshold=100", "-fcommon")
    path = compile(LARGE_ALONE, level, "-fPIC", *flags, toolchain=toolchain)
    assert agree(session, compile, [path]) == [3, 4, 5]


def test_a_large_common_symbol_of_an_earlier_load(session: tol.Session, compile: Compiler) -> None:
    large = ("-O1", "-fPIC", "-fcommon", "-mcmodel=medium", "-mlarge-data-threshold=100")
    source = '#include "safe_call.h"\nlong shared[400];\n'
    first = compile(source + "EXPORT(first) { RETURN(shared[399] += INT(0)); }\n", *large)
    second = compile(source + "EXPORT(second) { RETURN(shared[399] *= INT(0)); }\n", *large)
    dylib = session.load(first)
    dylib.load(second)
    assert [dylib["first"](5), dylib["second"](7), dylib["first"](1)] == [5, 35, 36]
    address = dylib.lookup("shared")
    assert ctypes.c_long.from_address(address + 399 * 8).value == 36
    other = session.load(second, link_order=[dylib])
    assert other["second"](3) == 0


def test_a_large_common_symbol_and_a_member(
    session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    large = ("-O1", "-fPIC", "-fcommon", "-mcmodel=medium", "-mlarge-data-threshold=100")
    source = '#include "safe_call.h"\nlong shared[400];\nEXPORT(run) { RETURN(shared[INT(0)]); }\n'
    user = compile(source, *large)
    defines = compile("long shared[400] = {5, 6, 7};\n")
    archive = tmp_path / "defines.a"
    subprocess.run(["ar", "rc", archive, defines], check=True)
    assert agree(session, compile, [user, archive]) == [5, 6, 7]


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("partially", [False, True])
def test_common_symbols_of_their_own_type(
    session: tol.Session, compile: Compiler, tmp_path: Path, level: str, partially: bool
) -> None:
    path = compile(TYPED, level, "-fPIC", "-fcommon", "-Wa,--elf-stt-common=yes")
    assert b"COMMON" in subprocess.check_output(["readelf", "-sW", path])
    other = compile(
        "int cm; double cd[300];\n", level, "-fPIC", "-fcommon", "-Wa,--elf-stt-common=yes"
    )
    objects = [path, other]
    if partially:
        merged = tmp_path / "merged.o"
        subprocess.run(["ld", "-r", "-z", "common", *objects, "-o", merged], check=True)
        objects = [merged]
    agree(session, compile, objects)
    agree(session, compile, [path])
