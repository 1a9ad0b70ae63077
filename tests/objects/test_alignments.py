# SPDX-License-Identifier: Apache-2.0
"""Alignments of variables and sections: above a page, above a large page, absurd ones."""

from __future__ import annotations

import ctypes
import itertools
import re
import struct
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from agreement import agree
from compilation import TOOLCHAINS, Compiler, Toolchain
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
from refusal import Refusal

pytestmark = pytest.mark.matrix

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
