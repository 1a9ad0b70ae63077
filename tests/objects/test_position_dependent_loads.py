# SPDX-License-Identifier: Apache-2.0
"""Loads of objects compiled with -fno-pic, one after the other and beside much else."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain
from position_dependent import PIC, addresses_of_32_bits, fixed, one_way_each, results

pytestmark = [pytest.mark.matrix, addresses_of_32_bits]

# Loads one after the other, which refer to each other's variables with 32 bits.

DEFINER = """
int foo = 4;
int fn(void) { return 7; }
int numbers[5] = {1, 2, 3, 4, 5};
int zeros[100];
const int constant = 9;
"""
ABSOLUTE_DEFINER = """
int foo = 4;
static int own = 2;
int* volatile kept = &own;
int* pointer = &foo;
int fn(void) { kept = &own; return 5 + *kept; }
int numbers[5] = {1, 2, 3, 4, 5};
int zeros[100];
const int constant = 9;
"""
# It names nothing but what can be reached relative to the code.
READER = """
#include "safe_call.h"
extern int foo, numbers[], zeros[];
extern const int constant;
int fn(void);
EXPORT(run) {
  foo = 3 + (int)INT(0);
  zeros[2] += 1;
  RETURN(foo + fn() * 10 + numbers[3] * 100 + zeros[2] * 10000 + constant * 1000000);
}
EXPORT(foo) { RETURN(foo); }
EXPORT(where) { RETURN((intptr_t)&foo); }
EXPORT(where_fn) { RETURN((intptr_t)fn); }
"""
INDEXING_READER = """
#include "safe_call.h"
extern int foo, numbers[], zeros[];
extern const int constant;
int fn(void);
EXPORT(run) {
  foo = 3 + (int)INT(0);
  zeros[INT(0)] += 1;
  RETURN(foo + fn() * 10 + numbers[INT(0)] * 100 + zeros[0] * 10000 + constant * 1000000);
}
EXPORT(foo) { RETURN(foo); }
EXPORT(where) { RETURN((intptr_t)&foo); }
EXPORT(where_fn) { RETURN((intptr_t)fn); }
"""
ABSOLUTE_READER = """
#include "safe_call.h"
extern int foo, numbers[], zeros[];
extern const int constant;
int fn(void);
static int own;
int* volatile p = &own;
int* volatile stored = &foo;
int (*volatile function)(void) = fn;
__asm__(".pushsection .data\\n narrow: .long foo\\n .popsection");
extern unsigned narrow __attribute__((visibility("hidden")));
EXPORT(run) {
  foo = 3 + (int)INT(0);
  zeros[INT(0)] += 1;
  p = &own;
  stored = &numbers[INT(0)];
  function = fn;
  RETURN(foo + function() * 10 + *stored * 100 + zeros[0] * 10000 + constant * 1000000);
}
EXPORT(foo) { RETURN(*(int*)(uintptr_t)narrow); }
EXPORT(where) { RETURN(narrow); }
EXPORT(where_fn) { RETURN((intptr_t)fn); }
"""
DEFINERS = {"absolute": ABSOLUTE_DEFINER, "relative": DEFINER}
READERS = {"absolute": ABSOLUTE_READER, "indexing": INDEXING_READER, "relative": READER}
# What a linked library can have in the place of the first, which gives the same.
FOR_THE_LINKER = {**READERS, "absolute": INDEXING_READER}


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("definer", DEFINERS)
@pytest.mark.parametrize("how", ["together", "one dylib", "link order"])
@one_way_each
def test_variables_of_an_earlier_load(
    session: tol.Session,
    compile: Compiler,
    toolchain: Toolchain,
    how: str,
    definer: str,
    reader: str,
    level: str,
) -> None:
    flags = fixed(level, toolchain)
    first = compile(DEFINERS[definer], *flags, toolchain=toolchain, name="definer")
    second = compile(READERS[reader], *flags, toolchain=toolchain, name="reader")
    if how == "together":
        dylib = definers = session.load([first, second])
    elif how == "one dylib":
        dylib = definers = session.load(first)
        dylib.load(second)
    else:
        definers = session.load(first)
        dylib = session.load(second, link_order=[definers])
    plain = [compile(source, *PIC) for source in (DEFINER, FOR_THE_LINKER[reader])]
    assert results(dylib) == results(compile.dlopen(*plain))
    address = definers.lookup("foo")
    assert dylib["where"](0) == address == dylib.lookup("foo")
    variable = ctypes.c_int.from_address(address)
    assert variable.value == dylib["foo"](0) == 6
    variable.value = 77
    assert dylib["foo"](0) == 77
    assert dylib["run"](0) % 10 == 3
    assert variable.value == 3
    if how == "together":
        assert dylib["where_fn"](0) == definers.lookup("fn")


@one_way_each
def test_many_loads_after_each_other(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    flags = fixed("-O2", toolchain)
    dylib = session.create_dylib()
    for number in range(12):
        before = number - 1
        source = f"""
        #include "safe_call.h"
        int variable_{number} = {number};
        {f"extern int variable_{before};" if number else ""}
        static int own;
        int* volatile p_{number} = &own;
        EXPORT(get_{number}) {{
          {f"p_{number} = INT(0) ? &variable_{before} : &own;" if number % 3 else ""}
          RETURN(variable_{number}{f" + 100 * variable_{before}" if number else ""});
        }}
        EXPORT(set_{number}) {{ RETURN(variable_{number} = INT(0)); }}
        """
        dylib.load(compile(source, *flags, toolchain=toolchain))
        if number:
            dylib[f"set_{before}"](number + 50)
            assert dylib[f"get_{number}"](1) == number + 100 * (number + 50)


@one_way_each
def test_position_dependent_code_is_loaded_beside_much_else(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, add_object: Path
) -> None:
    kept = [session.load(add_object) for _ in range(50)]
    flags = fixed("-O2", toolchain)
    first = compile(ABSOLUTE_DEFINER, *flags, toolchain=toolchain)
    second = compile(ABSOLUTE_READER, *flags, toolchain=toolchain)
    for _ in range(50):
        base = session.load(first)
        kept.append(session.load(second, link_order=[base]))
        assert kept[-1]["run"](1) == 4 + 70 + 200 + 9000000
        kept.append(session.load(add_object))
    assert all(dylib["add"](1, 2) == 3 for dylib in kept if "add" in dylib)


def test_what_has_no_room_below_2_gib_is_said(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    static char large[MIB << 20];
    EXPORT(get) { large[INT(0)] = 7; RETURN(large[INT(0)] + large[INT(0) + 1]); }
    """
    small = compile(source, "-O2", "-fno-pic", "-DMIB=256")
    assert session.load(small)["get"](5) == 7
    large = compile(source, "-O2", "-fno-pic", "-DMIB=1536")
    with pytest.raises(tol.LinkError, match=r"without -fPIC(.|\n)*below 2 GiB(.|\n)*-fPIC"):
        session.load(large)
    assert session.load(compile(source, "-O2", "-fPIC", "-DMIB=1536"))["get"](5) == 7
