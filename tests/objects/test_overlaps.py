# SPDX-License-Identifier: Apache-2.0
"""Nothing that is loaded lies over a table of its file, or over other loaded content."""

from __future__ import annotations

import ctypes

import pytest

import tvm_ffi_object_loader as tol
from elf_writer import (
    ABSOLUTE_64,
    RETURN,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_TLS,
    SHF_WRITE,
    SHN_ABS,
    SHT_NOBITS,
    SHT_PROGBITS,
    SHT_STRTAB,
    SHT_SYMTAB,
    STB_GLOBAL,
    STT_FUNC,
    STT_OBJECT,
    STT_SECTION,
    Section,
    function,
    relocation,
    relocations,
    write,
)
from elf_writer import symbol as elf_symbol
from processors import PROCESSOR
from refusal import Refusal

# What an attacker would have written over the place of another relocation: far away.
EVIL = 0x123456789


def over(name: str, size: int, flags: int = SHF_ALLOC) -> Section:
    """A loaded section that has no content of its own, but the file's from `name` on."""
    return Section(".over", SHT_PROGBITS, flags, offset=lambda at: at[name], size=size)


def test_the_object_without_overlaps_loads(session: tol.Session) -> None:
    content = function(relocations(".data", relocation(0, 1, ABSOLUTE_64)))
    assert session.load(content)["f"]() is None


@pytest.mark.parametrize(
    ("place", "size"),
    [
        (".rela.data", 24),
        (".rela.data", 1),
        (".symtab", 24),
        (".strtab", 4),
        (".shstrtab", 4),
        ("section headers", 64),
        (".data", 8),
        (".text", 16),
    ],
)
@pytest.mark.parametrize("flags", [SHF_ALLOC, SHF_ALLOC | SHF_WRITE], ids=["constant", "data"])
def test_a_loaded_section_over_something_else(
    refusal: Refusal, place: str, size: int, flags: int
) -> None:
    content = function(
        relocations(".data", relocation(0, 1, ABSOLUTE_64)),
        over(place, size, flags),
        relocations(".over", relocation(0, 0, ABSOLUTE_64, EVIL)),
    )
    with refusal.of(tol.ObjectFormatError, "<bytes>", "overlap"):
        refusal.dylib.load(content)


def test_a_loaded_section_over_the_header(refusal: Refusal) -> None:
    section = Section(".over", SHT_PROGBITS, SHF_ALLOC, offset=lambda at: 0, size=64)
    with refusal.of(tol.ObjectFormatError, "<bytes>", "overlap"):
        refusal.dylib.load(function(section))


def test_sections_that_have_no_content_overlap_nothing(session: tol.Session) -> None:
    empty = Section(".empty", SHT_PROGBITS, SHF_ALLOC, offset=lambda at: at[".symtab"], size=0)
    zeros = Section(
        ".zeros", SHT_NOBITS, SHF_ALLOC | SHF_WRITE, offset=lambda at: at[".symtab"], size=64
    )
    assert session.load(function(empty, zeros))["f"]() is None


def test_a_relocation_table_that_is_itself_loaded(refusal: Refusal) -> None:
    content = function(
        relocations(".data", relocation(0, 1, ABSOLUTE_64), flags=SHF_ALLOC),
        relocations(".rela.data", relocation(0, 0, ABSOLUTE_64, EVIL)),
    )
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".rela.data"):
        refusal.dylib.load(content)


@pytest.mark.parametrize("name", [".symtab", ".strtab", ".rela.data"])
def test_relocations_for_a_table(refusal: Refusal, name: str) -> None:
    content = function(
        relocations(".data", relocation(0, 1, ABSOLUTE_64)),
        relocations(name, relocation(0, 0, ABSOLUTE_64, EVIL), name=".rela.of.a.table"),
    )
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(content)


@pytest.mark.parametrize("symbol", [0, 3], ids=["no symbol", "a local number"])
def test_a_slot_for_a_number(session: tol.Session, symbol: int) -> None:
    kind, width = PROCESSOR.slot_distance
    content = write(
        Section(".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, RETURN, alignment=16),
        Section(".data", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, bytes(16), alignment=8),
        relocations(".data", relocation(0, symbol and 2, kind)),
        Section(
            ".symtab",
            SHT_SYMTAB,
            0,
            elf_symbol(0, 0)
            + elf_symbol(0, 2, kind=STT_SECTION)
            + elf_symbol(0, SHN_ABS, value=5)
            + elf_symbol(1, 1, size=3, kind=STT_FUNC, binding=STB_GLOBAL)
            + elf_symbol(13, 2, size=8, kind=STT_OBJECT, binding=STB_GLOBAL),
            ".strtab",
            3,
            8,
            24,
        ),
        Section(".strtab", SHT_STRTAB, 0, b"\0__tvm_ffi_f\0distance\0"),
    )
    dylib = session.load(content)
    place = dylib.lookup("distance")
    slot = place + int.from_bytes(ctypes.string_at(place, width), "little", signed=True)
    assert ctypes.c_uint64.from_address(slot).value == (5 if symbol else 0)


@pytest.mark.parametrize("name", [".init_array", ".fini_array", ".ctors"])
def test_functions_to_run_among_thread_local_variables(session: tol.Session, name: str) -> None:
    variables = Section(
        name, SHT_PROGBITS, SHF_ALLOC | SHF_WRITE | SHF_TLS, b"\1" * 16, alignment=8
    )
    dylib = session.load(function(variables))
    assert dylib["f"]() is None
    dylib.close()
