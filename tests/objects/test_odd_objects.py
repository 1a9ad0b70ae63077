# SPDX-License-Identifier: Apache-2.0
"""Objects that few compilers' flags make: odd symbols, alignments, sizes and names."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
import struct
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain
from elf_writer import (
    ABSOLUTE_64,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_TLS,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_PROGBITS,
    STB_GLOBAL,
    STT_OBJECT,
    Section,
    function,
    relocation,
    relocations,
    symbol,
)
from processors import PROCESSOR
from refusal import Refusal

pytestmark = pytest.mark.matrix

ARGUMENTS = (0, 1, 2)


def agree(
    session: tol.Session, compile: Compiler, objects: list[Path], plain: list[Path] | None = None
) -> list[int]:
    """The function ``run`` gives what it does after the objects, or `plain`, were linked."""
    dlopened = compile.dlopen(*(plain or objects))
    loaded = session.load(objects)
    results = [loaded["run"](argument) for argument in ARGUMENTS]
    assert results == [dlopened.run(argument) for argument in ARGUMENTS]
    return results


# Weak thread-local variables that nobody defines: they are null.

WEAK = """
#include "safe_call.h"
extern __thread int foo __attribute__((weak));
extern __thread int bar __attribute__((weak));
static __thread int own = 5;
EXPORT(run) {
  int* volatile p = &foo;
  int* volatile q = &bar;
  int* volatile mine = &own;
  RETURN((p != 0) + 2 * (q != 0) + 4 * (mine == 0) + (p ? *p * 10 : 0) + (q ? *q * 1000 : 0));
}
EXPORT(folded) { RETURN(&foo ? 1 : 0); }
"""
WEAK_ONLY = """
#include "safe_call.h"
extern _Thread_local int foo __attribute__((weak));
EXPORT(run) { RETURN(&foo ? 1 : 0); }
"""
WEAK_IN_CXX = """
#include "safe_call.h"
extern thread_local int foo __attribute__((weak));
EXPORT(run) {
  int* volatile p = &foo;
  RETURN(p ? 1 + *p * 10 : 0);
}
"""
# General dynamic accesses and descriptors can say that a variable is not there.
NULLABLE = {
    "general dynamic": ("-fPIC",),
    "descriptors": ("-fPIC", PROCESSOR.descriptors),
    "no PLT": ("-fPIC", "-fno-plt"),
    "large": ("-fPIC", "-mcmodel=large"),
}


@pytest.mark.parametrize("model", NULLABLE)
@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_a_weak_thread_local_variable_that_is_nowhere(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, level: str, model: str
) -> None:
    path = compile(WEAK, level, *NULLABLE[model], toolchain=toolchain)
    dylib = session.load(path)
    assert dylib["run"](0) == 0
    if toolchain is GCC:  # clang takes it for granted that such a variable is there
        assert dylib["folded"](0) == 0
    path = compile(WEAK_ONLY, level, *NULLABLE[model], toolchain=toolchain)
    assert session.load(path)["run"](0) in ((0,) if toolchain is GCC else (0, 1))
    path = compile.cxx(WEAK_IN_CXX, level, *NULLABLE[model], toolchain=toolchain)
    assert session.load(path)["run"](0) == 0


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_descriptors_of_what_is_nowhere_are_the_linkers(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    path = compile(WEAK, "-O2", "-fPIC", PROCESSOR.descriptors, toolchain=toolchain)
    assert agree(session, compile, [path]) == [0, 0, 0]


DEFINES = """
#include "safe_call.h"
_Thread_local int NAME = 7;
EXPORT(NAME) { RETURN(++NAME); }
"""


@pytest.mark.parametrize("model", [*NULLABLE, "initial exec"])
@pytest.mark.parametrize("where", ["together", "before", "link order", "library"])
def test_a_weak_thread_local_variable_that_is_somewhere(
    session: tol.Session, compile: Compiler, where: str, model: str
) -> None:
    flags = NULLABLE.get(model, ("-fPIC", "-ftls-model=initial-exec"))
    user = compile(WEAK, "-O2", *flags)
    foo = compile(DEFINES, "-O2", "-fPIC", "-DNAME=foo")
    bar = compile(DEFINES, "-O2", "-fPIC", "-DNAME=bar")
    expected = 3 + 70 + 7000
    if where == "together":
        assert agree(session, compile, [user, foo, bar]) == [expected] * 3
        return
    if where == "before":
        dylib = session.load([foo, bar])
        dylib.load(user)
    elif where == "link order":
        base = session.load([foo, bar])
        dylib = session.load(user, link_order=[base])
    else:
        if model == "initial exec":
            pytest.skip("libraries opened later have no static place")
        dylib = session.load([user, compile.link(foo, bar)])
    assert dylib["run"](0) == expected


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
@pytest.mark.parametrize("model", NULLABLE)
def test_one_of_two_weak_thread_local_variables_is_there(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, model: str
) -> None:
    user = compile(WEAK, "-O2", *NULLABLE[model], toolchain=toolchain)
    bar = compile(DEFINES, "-O2", "-fPIC", "-DNAME=bar")
    dylib = session.load([user, bar])
    assert dylib["run"](0) == 2 + 7000
    assert dylib["bar"](0) == 8
    assert dylib["run"](0) == 2 + 8000


@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
@pytest.mark.parametrize("flags", [("-fPIC", "-ftls-model=initial-exec"), ("-fPIE",)])
def test_other_models_of_what_is_nowhere(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, flags: tuple[str, ...]
) -> None:
    # The linked library has some address there, since null cannot be said; nothing may use it.
    guarded = WEAK_ONLY.replace("&foo ? 1 : 0", "INT(0) > 5 ? foo : 3")
    path = compile(guarded, "-O2", *flags, toolchain=toolchain)
    said = ""
    try:
        loaded = session.load(path)
    except tol.LinkError as error:
        said = str(error)
    if said:
        assert "foo" in said
        assert "-fPIC" in said
    else:
        expected = compile.dlopen(path)
        assert [loaded["run"](n) for n in ARGUMENTS] == [expected.run(n) for n in ARGUMENTS]


def test_a_strong_reference_beside_a_weak_one(refusal: Refusal, compile: Compiler) -> None:
    strong = compile("extern _Thread_local int foo;\nint use(void) { return foo; }\n")
    with refusal.of(tol.UndefinedSymbolError, "foo") as caught:
        refusal.dylib.load([compile(WEAK), strong])
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert caught.value.symbols == ("foo",)


# Common symbols, in the ordinary and in the large section (SHN_X86_64_LCOMMON).

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


TYPED = """
#include "safe_call.h"
int cm;
double cd[100];
char text[3];
EXPORT(run) {
  cm += 3;
  cd[99] = 4;
  text[2] += 1;
  RETURN(cm + (int)cd[99] + (int)cd[0] + text[2] * 100 + INT(0));
}
"""


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


# Alignments above a page, and above those of large pages.

ALIGNED = """
#include "safe_call.h"
#define A __attribute__((aligned(ALIGN)))
static char before = 4;
static char zeros_before;
#if WHAT == 1
A int value = 5;
#elif WHAT == 2
A static int value;
#elif WHAT == 3
A static const int constant[3] = {7, 8, 9};
#else
A int value;
#endif
static char after = 3;
static char zeros_after;
__attribute__((noinline)) static uintptr_t bits(const volatile void* p) {
  return (uintptr_t)p & (ALIGN - 1);
}
EXPORT(run) {
  ++before, ++after, ++zeros_before, ++zeros_after;
  int64_t sum = before + after * 100 + zeros_before * 10000 + zeros_after * 1000000;
#if WHAT == 3
  volatile int n = INT(0);
  RETURN(bits(constant) + constant[n] + sum);
#else
  value += 2;
  RETURN(bits(&value) + value + sum);
#endif
}
"""
PLACES = {".data": 1, ".bss": 2, ".rodata": 3, "common": 4}


@pytest.mark.parametrize(
    ("place", "power"),
    [
        # An object with data is as large as its alignment.
        *itertools.product((".data", ".rodata"), (13, 20, 21, 22, 24)),
        *itertools.product((".bss", "common"), (13, 20, 21, 22, 24, 26, 28)),
    ],
)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_alignments(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, place: str, power: int
) -> None:
    definitions = (f"-DALIGN={1 << power}", f"-DWHAT={PLACES[place]}")
    path = compile(ALIGNED, "-O2", "-fPIC", "-fcommon", *definitions, toolchain=toolchain)
    agree(session, compile, [path])
    agree(session, compile, [path, compile("char pad[3] = {1};\nchar zero;\n")])


@pytest.mark.parametrize("power", [21, 22, 24, 26, 28])
@pytest.mark.parametrize("kind", ["code", "data", "constant", "zeros", "thread-local"])
def test_alignments_of_sections(
    session: tol.Session, compile: Compiler, tmp_path: Path, kind: str, power: int
) -> None:
    flags = {
        "code": SHF_EXECINSTR,
        "data": SHF_WRITE,
        "constant": 0,
        "zeros": SHF_WRITE,
        "thread-local": SHF_WRITE | SHF_TLS,
    }[kind]
    type_ = SHT_NOBITS if kind == "zeros" else SHT_PROGBITS
    content = b"" if kind == "zeros" else b"ABCDEFGH"
    if kind == "thread-local" and power > 24:
        pytest.skip("each thread would have as much")
    section = Section(".large", type_, SHF_ALLOC | flags, content, alignment=1 << power, size=8)
    thread_local = 6 if kind == "thread-local" else STT_OBJECT
    variable = symbol(13, 3, 0, 8, thread_local, STB_GLOBAL)
    path = tmp_path / "aligned.o"
    path.write_bytes(function(section, symbols=variable, names=b"variable\0"))
    dylib = session.load(path)
    address = dylib.lookup("variable")
    assert address % (1 << power) == 0
    assert ctypes.string_at(address, 8) == (content or bytes(8))
    other = session.load([compile("char pad = 1;\n"), path])
    assert other.lookup("variable") % (1 << power) == 0


def test_relocations_to_what_is_aligned_so(session: tol.Session) -> None:
    section = Section(".large", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, bytes(16), alignment=1 << 24)
    content = function(
        section,
        relocations(".data", relocation(0, 3, ABSOLUTE_64, 8)),
        symbols=symbol(13, 3, 0, 16, STT_OBJECT, STB_GLOBAL)
        + symbol(22, 2, 0, 16, STT_OBJECT, STB_GLOBAL),
        names=b"variable\0pointer\0",
    )
    dylib = session.load(content)
    (pointer,) = struct.unpack("<Q", ctypes.string_at(dylib.lookup("pointer"), 8))
    assert pointer == dylib.lookup("variable") + 8
    assert pointer % (1 << 24) == 8


SAID = {
    power: rf"{1 << power}|{1 << power:#x}|\b1 ?<< ?{power}\b|\b2(\*\*|\^){power}\b|[KMGTPE]iB"
    for power in range(64)
}


@pytest.mark.parametrize("power", [40, 47, 48, 62, 63])
@pytest.mark.parametrize("kind", ["code", "data", "zeros", "empty"])
def test_an_absurd_alignment(refusal: Refusal, kind: str, power: int) -> None:
    flags = SHF_EXECINSTR if kind == "code" else SHF_WRITE
    type_ = SHT_NOBITS if kind == "zeros" else SHT_PROGBITS
    content = b"" if kind in ("zeros", "empty") else bytes(8)
    size = 8 if kind == "zeros" else None
    section = Section(
        ".absurdly.aligned",
        type_,
        SHF_ALLOC | flags,
        content,
        alignment=1 << power,
        size=size,
    )
    with pytest.raises(tol.ObjectLoaderError) as caught:
        refusal.dylib.load(function(section))
    said = str(caught.value)
    assert said.startswith("<bytes>")
    assert ".absurdly.aligned" in said
    assert re.search(SAID[power], said)
    assert "malformed" not in said
    assert "truncated" not in said


@pytest.mark.parametrize("power", [30, 31, 32, 36])
def test_an_alignment_that_is_a_lot(refusal: Refusal, power: int) -> None:
    section = Section(
        ".much.aligned", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, bytes(8), alignment=1 << power
    )
    variable = symbol(13, 3, 0, 8, STT_OBJECT, STB_GLOBAL)
    content = function(section, symbols=variable, names=b"variable\0")
    try:
        dylib = refusal.session.load(content)
    except tol.ObjectLoaderError as error:
        said = str(error)
    else:
        assert dylib.lookup("variable") % (1 << power) == 0
        return
    assert ".much.aligned" in said
    assert re.search(SAID[power], said)
    assert "malformed" not in said


@pytest.mark.parametrize("alignment", [1 << 40, 1 << 62])
def test_an_absurd_alignment_of_a_common_symbol(refusal: Refusal, alignment: int) -> None:
    common = symbol(13, 0xFFF2, alignment, 8, STT_OBJECT, STB_GLOBAL)
    with pytest.raises(tol.ObjectLoaderError) as caught:
        refusal.dylib.load(function(symbols=common, names=b"variable\0"))
    said = str(caught.value)
    assert "variable" in said
    assert re.search(SAID[alignment.bit_length() - 1], said)
    assert "malformed" not in said


@pytest.mark.parametrize("alignment", [3, 24, (1 << 22) + 1, (1 << 40) + 4096])
def test_an_alignment_that_is_no_power_of_two(refusal: Refusal, alignment: int) -> None:
    section = Section(".odd", SHT_PROGBITS, SHF_ALLOC, bytes(8), alignment=alignment)
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".odd"):
        refusal.dylib.load(function(section))


# Sections above 2 GiB: they load, or the size and what is possible are said.


def loads_or_says_the_size(
    load: Callable[[], tol.Dylib], size: int, check: Callable[[tol.Dylib], None]
) -> None:
    try:
        dylib = load()
    except tol.ObjectLoaderError as error:
        said = str(error)
    else:
        check(dylib)
        return
    gibibytes = size / (1 << 30)
    forms = {str(size), f"{size:,}", f"{size:#x}", f"{gibibytes:g} GiB", f"{gibibytes:.1f} GiB"}
    assert any(form in said for form in forms), said
    rest = said
    for form in forms:
        rest = rest.replace(form, "")
    assert re.search(r"\d[\d,.]* ?[GTM]iB|\b\d{9,}\b|\d,\d{3},\d{3},\d{3}|0x[0-9a-f]{7,}", rest), (
        said
    )
    assert "malformed" not in said
    assert "truncated" not in said


HUGE = """
#include "safe_call.h"
static volatile char big[3ull << 30];
static int last = 4;
EXPORT(run) {
  big[(3ull << 30) - 1] += 5;
  big[INT(0)] += 2;
  RETURN(big[(3ull << 30) - 1] + big[0] * 100 + big[1] * 1000 + ++last * 10000);
}
"""


@pytest.mark.parametrize("model", ["small", "medium", "large"])
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_zeros_of_3_gib(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, model: str
) -> None:
    path = compile(HUGE, "-O2", "-fPIC", f"-mcmodel={model}", toolchain=toolchain)
    dlopened = compile.dlopen(path)
    expected = [dlopened.run(n) for n in ARGUMENTS]

    def check(dylib: tol.Dylib) -> None:
        assert [dylib["run"](n) for n in ARGUMENTS] == expected

    loads_or_says_the_size(lambda: session.load(path), 3 << 30, check)
    assert session.load(compile(TYPED))["run"](1) == 108


@pytest.mark.parametrize("size", [(2 << 30) + 4096, 5 << 30, 1 << 36])
@pytest.mark.parametrize("kind", ["zeros", "common", "large common"])
def test_sizes_above_2_gib(session: tol.Session, size: int, kind: str) -> None:
    if kind == "zeros":
        huge = Section(".huge", SHT_NOBITS, SHF_ALLOC | SHF_WRITE, alignment=16, size=size)
        variable = symbol(13, 3, size - 8, 8, STT_OBJECT, STB_GLOBAL)
        content = function(huge, symbols=variable, names=b"variable\0")
        at = 0
    else:
        section = 0xFFF2 if kind == "common" else 0xFF02
        variable = symbol(13, section, 16, size, STT_OBJECT, STB_GLOBAL)
        content = function(symbols=variable, names=b"variable\0")
        at = size - 8

    def check(dylib: tol.Dylib) -> None:
        assert dylib["f"]() is None
        value = ctypes.c_int64.from_address(dylib.lookup("variable") + at)
        assert value.value == 0
        value.value = 5

    loads_or_says_the_size(lambda: session.load(content), size, check)


@pytest.mark.parametrize("size", [1 << 45, 1 << 47, (1 << 63) - 4096, (1 << 64) - 4096])
def test_absurd_sizes(refusal: Refusal, size: int) -> None:
    huge = Section(".huge", SHT_NOBITS, SHF_ALLOC | SHF_WRITE, alignment=16, size=size)
    with pytest.raises(tol.ObjectLoaderError) as caught:
        refusal.dylib.load(function(huge))
    assert ".huge" in str(caught.value)


def test_two_sections_that_are_too_much_together(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    static volatile char big[3ull << 29];
    EXPORT(NAME) { big[INT(0)] += 2; RETURN(big[0] + big[1] * 10 + big[(3ull << 29) - 1] * 100); }
    """
    objects = [compile(source, "-O2", "-fPIC", f"-DNAME=run{n}") for n in range(2)]
    try:
        dylib = session.load(objects)
    except tol.ObjectLoaderError as error:
        said = str(error)
    else:
        assert [dylib["run0"](0), dylib["run1"](1)] == [2, 20]
        return
    assert re.search(r"\d{9,}|GiB|MiB", said)
    assert "malformed" not in said


# Names that are not UTF-8: Python's surrogateescape stands for their bytes.

Test = TypeVar("Test", bound=Callable[..., None])


def told_in_ascii(test: Test) -> Test:
    """Make what pytest says of a failure something that it can print."""

    @functools.wraps(test)
    def told(*arguments: object, **named: object) -> None:
        said = ""
        try:
            test(*arguments, **named)
        except (Exception, pytest.fail.Exception):
            said = traceback.format_exc().encode("ascii", "backslashreplace").decode()
        if said:
            pytest.fail(said, pytrace=False)

    return cast(Test, told)


NAMES = [
    b"\xff\xfe",
    b"\xff",
    b"a\x80b",
    b"\xc3",
    b"\xc3\xa4\xc3",
    b"\xed\xb3\xbf",
    b"\xf4\x90\x80\x80",
    b"\xc0\x80",
    b"caf\xe9",
]


def quoted(name: bytes) -> str:
    """Return a name as C source has it within quotes."""
    return "".join(chr(c) if 32 <= c < 127 else f"\\{c:03o}" for c in name)


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def exporting(compile: Compiler, *names: bytes, toolchain: Toolchain = GCC) -> Path:
    """Return an object with a function of each name, besides ``ok``."""
    source = '#include "safe_call.h"\nEXPORT(ok) { RETURN(INT(0) + 1); }\n'
    for number, name in enumerate(names):
        source += (
            f"int64_t named_{number}(void* self, const TVMFFIAny* args, int32_t num_args,"
            f' TVMFFIAny* ret) __asm__("__tvm_ffi_{quoted(name)}");\n'
            f"int64_t named_{number}(void* self, const TVMFFIAny* args, int32_t num_args,"
            f" TVMFFIAny* ret) {{ RETURN(INT(0) + {100 * (number + 1)}); }}\n"
        )
    return compile(source, toolchain=toolchain)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
@told_in_ascii
def test_a_function_whose_name_is_not_utf8(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, name: bytes
) -> None:
    path = exporting(compile, name, toolchain=toolchain)
    assert b"\0__tvm_ffi_" + name + b"\0" in path.read_bytes()
    given = text(name)
    dylib = session.load(path)
    assert dylib.functions == sorted(["ok", given], key=os.fsencode)
    assert sorted(dylib) == sorted(["ok", given])
    assert given in dylib
    assert "ok" in dylib
    assert given + "x" not in dylib
    assert "\udcfd" not in dylib
    assert dylib[given](5) == dylib.get_function(given)(5) == 105
    assert dylib["ok"](5) == 6
    address = dylib.lookup(f"__tvm_ffi_{given}")
    assert address != dylib.lookup("__tvm_ffi_ok")
    other = session.create_dylib(link_order=[dylib])
    other.load(compile("int nothing;\n"))
    assert other.lookup(f"__tvm_ffi_{given}") == address
    loader = tol.ObjectLoader()
    loader.load(path)
    assert loader.get_function(given)(1) == 101


@told_in_ascii
def test_several_names_that_are_not_utf8(session: tol.Session, compile: Compiler) -> None:
    dylib = session.load(exporting(compile, *NAMES))
    assert set(dylib.functions) == {"ok", *map(text, NAMES)}
    for number, name in enumerate(NAMES, 1):
        assert dylib[text(name)](3) == 100 * number + 3


@told_in_ascii
def test_missing_functions_beside_names_that_are_not_utf8(
    refusal: Refusal, compile: Compiler
) -> None:
    dylib = refusal.session.load(exporting(compile, b"\xff\xfe", b"n\xffpe"), name="odd")
    for name in ("nope", *map(text, (b"\xff", b"\xfd\xfe", b"n\xfepe", b"\x80", b"\xc3\xa4\xff"))):
        with refusal.of(tol.FunctionNotFoundError, "odd") as caught:
            dylib[name]
        assert name in str(caught.value) or ascii(name)[1:-1] in str(caught.value)
        with refusal.of(tol.FunctionNotFoundError, "odd"):
            dylib.get_function(name)
        with pytest.raises(AttributeError):
            _ = dylib.module.nope
    dylib.close()


@pytest.mark.parametrize("name", ["\udcff", "\udcff\udcfe", "a\udc80b"])
@told_in_ascii
def test_looking_up_what_is_not_there(refusal: Refusal, name: str) -> None:
    with refusal.of(tol.UndefinedSymbolError) as caught:
        refusal.dylib.lookup(name)
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert caught.value.symbols == (name,)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", [chr(0xD800), chr(0xDBFF), chr(0xDC7F), "a" + chr(0xDFFF)])
@told_in_ascii
def test_surrogates_that_stand_for_no_byte(
    session: tol.Session, compile: Compiler, name: str
) -> None:
    dylib = session.load(exporting(compile, b"\xff"))
    calls: list[Callable[[], object]] = [
        lambda: dylib[name],
        lambda: dylib.get_function(name),
        lambda: dylib.lookup(name),
    ]
    for call in calls:
        with pytest.raises((tol.ObjectLoaderError, ValueError, TypeError)) as caught:
            call()
        assert not isinstance(caught.value, UnicodeDecodeError)
        str(caught.value)
    assert name not in dylib
    assert dylib["\udcff"](1) == 101


@told_in_ascii
def test_errors_that_name_symbols_that_are_not_utf8(refusal: Refusal, compile: Compiler) -> None:
    undefined = compile('extern int u __asm__("\\377und");\nint* use(void) { return &u; }\n')
    with refusal.of(tol.UndefinedSymbolError, undefined, "\udcffund") as error:
        refusal.dylib.load(undefined)
    assert isinstance(error.value, tol.UndefinedSymbolError)
    assert error.value.symbols == ("\udcffund",)
    twice = compile('int d __asm__("d\\377p");\nint e __asm__("_ZN\\3771eE");\n')
    with refusal.of(tol.DuplicateSymbolError, "d\udcffp") as error:
        refusal.dylib.load([twice, twice])
    assert isinstance(error.value, tol.DuplicateSymbolError)
    assert sorted(error.value.symbols) == sorted(["d\udcffp", "_ZN\udcff1eE"])
    dylib = refusal.session.load(exporting(compile, b"\xff"))
    with refusal.of(tol.DuplicateSymbolError, "__tvm_ffi_\udcff"):
        dylib.load(exporting(compile, b"\xff"))
    dylib.close()
    far = compile('__asm__(".globl f\\377r\\n .set f\\377r, 0x123456789abcdef0");\n')
    user = 'extern char far __asm__("f\\377r");\nint near(void) { return (int)(long)&far; }\n'
    near = compile(user, "-O1", "-fno-pic", "-Wno-pointer-to-int-cast")
    with refusal.of(tol.LinkError, near, "f\udcffr"):
        refusal.dylib.load([far, near])
    local = compile('extern _Thread_local int t __asm__("t\\377");\nint f(void) { return t; }\n')
    ordinary = compile('int t __asm__("t\\377");\n')
    with refusal.of(tol.LinkError, "t\udcff", "thread-local"):
        refusal.dylib.load([local, ordinary])


@told_in_ascii
def test_initializers_that_throw_beside_such_names(refusal: Refusal, compile: Compiler) -> None:
    source = """
    #include <stdexcept>
    int init(void) __asm__("in\\377t");
    int init(void) { throw std::runtime_error("b\\377d"); }
    static int value = init();
    """
    with refusal.of(tol.LinkError, "initializer") as caught:
        refusal.dylib.load(compile.cxx(source))
    str(caught.value).encode("utf-8", "surrogateescape")


@told_in_ascii
def test_sections_and_members_whose_names_are_not_utf8(
    refusal: Refusal, session: tol.Session, compile: Compiler, tmp_path: Path
) -> None:
    content = function(Section(".odd.name", 0x60001234, SHF_ALLOC, bytes(8)))
    content = content.replace(b".odd.name", b".odd\xffname")
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".odd\udcffname"):
        refusal.dylib.load(content)
    missing = compile("int missing(void);\nint use(void) { return missing(); }\n")
    member = tmp_path / os.fsdecode(b"m\xff.o")
    member.write_bytes(missing.read_bytes())
    archive = tmp_path / os.fsdecode(b"lib\xfe.a")
    subprocess.run(["ar", "rc", archive, member], check=True)
    with refusal.of(tol.UndefinedSymbolError, f"{archive}(m\udcff.o)"):
        refusal.dylib.load(archive, whole_archive=True)
    good = tmp_path / os.fsdecode(b"g\xff.o")
    good.write_bytes(exporting(compile, b"\xff").read_bytes())
    assert session.load(good)["\udcff"](2) == 102
    with refusal.of(FileNotFoundError) as caught:
        refusal.dylib.load(tmp_path / os.fsdecode(b"absent\xff.o"))
    assert isinstance(caught.value, OSError)
    assert os.fsencode(caught.value.filename).endswith(b"absent\xff.o")


DYLIB_NAMES = [*map(text, (b"\xff", b"d\xff\xfe", b"\x80", b"\xc3\xa4\xffb")), chr(0xD800)]


@pytest.fixture
def named() -> Iterator[tol.Session]:
    """Return a session whose name is no text, or one with a name of text where that is refused."""
    refusals: list[Exception] = []
    try:
        session = tol.Session("s\udcff")
    except (TypeError, ValueError) as error:
        refusals.append(error)
        session = tol.Session()
    assert refusals or session.name == "s\udcff"
    assert not any(isinstance(error, UnicodeDecodeError) for error in refusals)
    with session:
        yield session


@pytest.mark.parametrize("name", DYLIB_NAMES)
@told_in_ascii
def test_names_of_sessions_and_dylibs(named: tol.Session, add_object: Path, name: str) -> None:
    assert "session" in repr(named).lower()
    with pytest.raises(KeyError):
        named[name]
    refusals: list[Exception] = []
    try:
        dylib = named.create_dylib(name)
    except (TypeError, ValueError, tol.ObjectLoaderError) as error:
        refusals.append(error)
    if refusals:
        # To refuse such a name is right, as long as that is what is said.
        assert not isinstance(refusals[0], UnicodeDecodeError)
        for load in (named.load, named.load_module):
            with pytest.raises(type(refusals[0])):
                load(add_object, name=name)
        assert list(named.dylibs) == []
        return
    assert dylib.name == name
    assert list(named.dylibs) == [name]
    assert named[name] == dylib
    dylib.load(add_object)
    assert dylib["add"](1, 2) == 3
    for shown in (repr(dylib), repr(named), repr(named.dylibs)):
        assert shown
    with pytest.raises(tol.FunctionNotFoundError):
        dylib["nope"]
    with pytest.raises(tol.UndefinedSymbolError):
        dylib.lookup("nope")
    with pytest.raises(tol.DuplicateSymbolError):
        dylib.load(add_object)
    with pytest.raises(tol.ObjectLoaderError):
        named.create_dylib(name)
    with pytest.raises(KeyError):
        named["other"]
    user = named.create_dylib("user", link_order=[dylib])
    assert user.link_order == [dylib]
    assert user.lookup("__tvm_ffi_add") == dylib.lookup("__tvm_ffi_add")
    dylib.close()
    with pytest.raises(tol.SessionClosedError):
        dylib["add"]
    assert named.load(add_object, name=name).name == name
