# SPDX-License-Identifier: Apache-2.0
"""Groups that no compiler of today writes: .gnu.linkonce sections, and malformed groups."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import GCC, Compiler, Toolchain, both_makes
from elf_writer import (
    SHF_ALLOC,
    SHF_GROUP,
    SHF_WRITE,
    SHT_GROUP,
    SHT_PROGBITS,
    STB_GLOBAL,
    Section,
    function,
    symbol,
)
from refusal import Refusal
from section_groups import both_ways, compared

pytestmark = pytest.mark.matrix

GRP_COMDAT = 1


# .gnu.linkonce.*, what there was before groups.

ONCE = r"""
#include "processor.h"
#include "safe_call.h"
__asm__(".section CODE\n"
        ".globl f\n .type f, @function\n"
        "f:\n" TAKE(v) PLUS_VALUE(NUMBER) "ret\n"
        ".section DATA\n"
        ".globl v\n .hidden v\n v: .quad 10 * NUMBER\n"
        ".text\n");
int64_t f(void);
EXPORT(runNUMBER) { RETURN(f()); }
"""
ONCE_CODE = r".gnu.linkonce.t.f, \"ax\", @progbits"
ONCE_DATA = r".gnu.linkonce.d.v, \"aw\", @progbits"
GROUP_CODE = r".text.f, \"axG\", @progbits, f, comdat"
GROUP_DATA = r".data.v, \"awG\", @progbits, v, comdat"


def once(compile: Compiler, number: int, code: str, data: str, toolchain: Toolchain = GCC) -> Path:
    source = ONCE.replace("CODE", code).replace("DATA", data).replace("NUMBER", str(number))
    return compile(source, toolchain=toolchain)


@both_ways
@both_makes
def test_linkonce_sections_count_once(
    session: tol.Session, compile: Compiler, together: bool, toolchain: Toolchain
) -> None:
    objects = [once(compile, n, ONCE_CODE, ONCE_DATA, toolchain) for n in (1, 2, 3)]
    names = ["run1", "run2", "run3"]
    assert compared(session, compile, together, objects, names) == [11] * 3


@both_makes
@pytest.mark.parametrize("order", ["group first", "group last"])
def test_a_linkonce_section_and_a_group_of_one_section_are_the_same(
    session: tol.Session, compile: Compiler, order: str, toolchain: Toolchain
) -> None:
    codes = [(GROUP_CODE, GROUP_DATA), (ONCE_CODE, ONCE_DATA), (GROUP_CODE, GROUP_DATA)]
    if order == "group last":
        codes = codes[1:]
    objects = [once(compile, n, *code, toolchain) for n, code in enumerate(codes, 1)]
    names = [f"run{n}" for n in range(1, len(codes) + 1)]
    assert compared(session, compile, True, objects, names) == [11] * len(codes)


@both_makes
def test_a_linkonce_section_gives_way_to_a_group_that_is_loaded(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    objects = [
        once(compile, 1, GROUP_CODE, GROUP_DATA, toolchain),
        once(compile, 2, ONCE_CODE, ONCE_DATA, toolchain),
    ]
    assert compared(session, compile, False, objects, ["run1", "run2"]) == [11] * 2


# Groups as no compiler writes them.


def group(
    *words: int, name: str = ".group", signature: int = 3, link: str | int = ".symtab"
) -> Section:
    """A group of its flags and the numbers of its members."""
    content = struct.pack(f"<{len(words)}I", *words)
    return Section(name, SHT_GROUP, 0, content, link, signature, 4, 4)


def grouped(*groups: Section) -> bytes:
    """An object whose last loaded section defines `key`, of 8 bytes; the groups come before it."""
    member = Section(".member", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE | SHF_GROUP, bytes(8))
    key = symbol(13, 3 + len(groups), size=8, binding=STB_GLOBAL)
    return function(*groups, member, symbols=key, names=b"key\0")


@pytest.mark.parametrize("flags", [0, GRP_COMDAT], ids=["plain", "COMDAT"])
@pytest.mark.parametrize("signature", [1, 2, 3], ids=["a section", "a function", "the data"])
def test_a_group_that_is_well_formed(session: tol.Session, flags: int, signature: int) -> None:
    dylib = session.load(grouped(group(flags, 4, signature=signature)))
    assert dylib["f"]() is None
    assert dylib.lookup("key")


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param((group(GRP_COMDAT, 99),), id="a member that does not exist"),
        pytest.param((group(GRP_COMDAT, 4, 0xFFFFFFFF),), id="a member of number -1"),
        pytest.param((group(GRP_COMDAT, 4, 0),), id="a member of number 0"),
        pytest.param((group(0, 99),), id="a member of a plain group that does not exist"),
        pytest.param((group(GRP_COMDAT, 4, signature=4),), id="a key that does not exist"),
        pytest.param((group(GRP_COMDAT, 4, signature=0xFFFFFFFF),), id="a key of number -1"),
        pytest.param((group(GRP_COMDAT, 4, link=0),), id="no symbol table"),
        pytest.param((group(GRP_COMDAT, 4, link=".data"),), id="a symbol table that is none"),
        pytest.param((group(GRP_COMDAT, 4, link=99),), id="a symbol table that does not exist"),
        pytest.param((group(0x10000000, 4),), id="an unknown flag"),
        pytest.param((group(GRP_COMDAT | 0x10000000, 4),), id="COMDAT and an unknown flag"),
        pytest.param((group(GRP_COMDAT | 2, 4),), id="COMDAT and a reserved flag"),
        pytest.param((group(),), id="no flags"),
        pytest.param(
            (Section(".group", SHT_GROUP, 0, b"\1\0\0\0\4\0", ".symtab", 3, 4, 4),),
            id="a size that is no multiple of 4",
        ),
        pytest.param(
            (Section(".group", SHT_GROUP, 0, b"", ".symtab", 3, 4, 4, size=1 << 40),),
            id="content beyond the file's end",
        ),
        pytest.param(
            (group(GRP_COMDAT, 5), group(GRP_COMDAT, 5, name=".group.2", signature=2)),
            id="a section in two groups",
        ),
        pytest.param((group(0, 5), group(0, 5, name=".group.2")), id="in two plain groups"),
    ],
)
def test_a_malformed_group(refusal: Refusal, add_object: Path, groups: tuple[Section, ...]) -> None:
    content = grouped(*groups)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.session.load(content)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.session.load([add_object, content])
    dylib = refusal.session.load(grouped(group(GRP_COMDAT, 4)))
    dylib.close()
