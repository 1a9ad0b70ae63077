# SPDX-License-Identifier: Apache-2.0
"""Relocation tables of other types than are read, and relocations that are for nothing."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import TOOLCHAINS, Compiler, Toolchain
from elf_writer import (
    ABSOLUTE_64,
    RELATIVE_32,
    SHF_ALLOC,
    SHF_WRITE,
    SHT_CREL,
    SHT_NOBITS,
    SHT_PROGBITS,
    SHT_REL,
    SHT_RELA,
    SHT_RELR,
    STB_GLOBAL,
    STT_OBJECT,
    Section,
    function,
    relocation,
    relocations,
    symbol,
)
from refusal import Refusal
from section_headers import PICKS, SHF_EXCLUDE, TYPE, changed, exporting, names_of_type

pytestmark = pytest.mark.matrix

# What a relocation table is not: other formats (packed, relative, CREL), reserved and private ones.
TABLE_TYPES = [
    SHT_REL,
    SHT_RELR,
    SHT_CREL,
    0x40000020,
    0x5FFFFFFF,
    20,
    0x60000001,
    0x60000002,
    0x6FFFFF00,
    0x60001234,
    0x70000055,
]


@pytest.mark.parametrize("kind", TABLE_TYPES, ids=hex)
@pytest.mark.parametrize("toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def test_a_relocation_table_of_another_type(
    refusal: Refusal, compile: Compiler, toolchain: Toolchain, kind: int
) -> None:
    content = compile(PICKS, toolchain=toolchain).read_bytes()
    tables = names_of_type(content, SHT_RELA)
    assert ".rela.text" in tables
    for table in tables:
        if table == ".rela.eh_frame":
            continue
        with refusal.of(tol.ObjectFormatError, "<bytes>", table):
            refusal.dylib.load(changed(content, table, TYPE, kind))
    for table in tables:
        content = changed(content, table, TYPE, kind)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(content)


@pytest.mark.parametrize("kind", [0x40000020, 20, 0x60001234, 0x70000055], ids=hex)
def test_the_type_of_a_relocation_table_is_named(
    refusal: Refusal, compile: Compiler, kind: int
) -> None:
    content = changed(compile(PICKS).read_bytes(), ".rela.text", TYPE, kind)
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".rela.text") as caught:
        refusal.dylib.load(content)
    assert f"{kind:x}" in str(caught.value).lower()


@pytest.mark.parametrize("kind", [SHT_CREL, 0x40000020, 0x60000002], ids=hex)
def test_a_relocation_table_of_another_type_for_unwind_tables(
    refusal: Refusal, compile: Compiler, kind: int
) -> None:
    content = compile(PICKS).read_bytes()
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".rela.eh_frame"):
        refusal.dylib.load(changed(content, ".rela.eh_frame", TYPE, kind))


@pytest.mark.parametrize("kind", [SHT_RELR, 0x40000020, 0x60000002], ids=hex)
def test_a_relocation_table_of_another_type_in_an_archive(
    refusal: Refusal, compile: Compiler, tmp_path: Path, kind: int
) -> None:
    (tmp_path / "odd.o").write_bytes(changed(compile(PICKS).read_bytes(), ".rela.text", TYPE, kind))
    subprocess.run(["ar", "rc", "odd.a", "odd.o"], cwd=tmp_path, check=True)
    with refusal.of(tol.ObjectFormatError, f"{tmp_path / 'odd.a'}(odd.o)", ".rela.text"):
        refusal.dylib.load(tmp_path / "odd.a", whole_archive=True)


def test_relocations_without_addends(refusal: Refusal) -> None:
    entry = struct.pack("<QQ", 0, 1 << 32 | ABSOLUTE_64)
    table = Section(".rel.data", SHT_REL, 0, entry, ".symtab", ".data", 8, 16)
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".rel.data"):
        refusal.dylib.load(function(table))


# Relocations that are for nothing.


def test_relocations_of_a_section_that_is_not_loaded_are_not_looked_at(
    session: tol.Session,
) -> None:
    aside = Section(".aside", SHT_PROGBITS, 0, bytes(16), alignment=8)
    for entry in (relocation(0, 1, ABSOLUTE_64), relocation(4, 2, RELATIVE_32)):
        assert session.load(function(aside, relocations(".aside", entry)))["f"]() is None


@pytest.mark.parametrize("kind", [ABSOLUTE_64, RELATIVE_32])
def test_relocations_of_a_section_without_content(
    refusal: Refusal, compile: Compiler, kind: int
) -> None:
    bss = Section(".bss", SHT_NOBITS, SHF_ALLOC | SHF_WRITE, size=16, alignment=8)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(exporting(bss, relocations(".bss", relocation(0, 1, kind)), section=3))


@pytest.mark.parametrize(
    ("offset", "kind"),
    [
        (16, ABSOLUTE_64),
        (9, ABSOLUTE_64),
        (15, RELATIVE_32),
        (13, RELATIVE_32),
        (1 << 32, ABSOLUTE_64),
        (1 << 63, ABSOLUTE_64),
        ((1 << 64) - 8, ABSOLUTE_64),
        ((1 << 64) - 1, RELATIVE_32),
    ],
)
def test_relocations_past_the_end_of_their_section(
    refusal: Refusal, offset: int, kind: int
) -> None:
    content = exporting(relocations(".data", relocation(offset, 1, kind)))
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(content)


@pytest.mark.parametrize("section", [99, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
def test_relocations_of_a_section_that_is_missing(refusal: Refusal, section: int) -> None:
    entry = relocation(0, 1, ABSOLUTE_64)
    table = Section(".rela.data", SHT_RELA, 0, entry, ".symtab", section, 8, 24)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(function(table))


@pytest.mark.parametrize("kind", [ABSOLUTE_64, RELATIVE_32])
@pytest.mark.parametrize("section", ["unloaded", "excluded"])
def test_relocations_to_a_section_that_is_not_loaded(
    refusal: Refusal, section: str, kind: int
) -> None:
    flags = SHF_EXCLUDE | SHF_ALLOC if section == "excluded" else 0
    aside = Section(".aside", SHT_PROGBITS, flags, bytes(16), alignment=8)
    symbols = symbol(13, 3, 4, 4, STT_OBJECT, STB_GLOBAL)
    symbols += symbol(19, 2, 0, 8, STT_OBJECT, STB_GLOBAL)
    names = b"there\0pointer\0"
    table = relocations(".data", relocation(0, 3, kind))
    with pytest.raises(tol.ObjectLoaderError) as caught:
        refusal.dylib.load(function(aside, table, symbols=symbols, names=names))
    assert str(caught.value).startswith("<bytes>")
    # Nobody is hurt by such a variable as long as nobody uses it.
    content = function(aside, symbols=symbols, names=names)
    assert refusal.session.load(content)["f"]() is None
