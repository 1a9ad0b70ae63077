# SPDX-License-Identifier: Apache-2.0
"""Types and flags of sections: what is not understood and would be loaded is refused by name."""

from __future__ import annotations

import ctypes
import functools
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, TOOLCHAINS, Compiler, Toolchain
from elf_writer import (
    ABSOLUTE_64,
    RELATIVE_32,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_TLS,
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
from processors import PROCESSOR
from refusal import Refusal

pytestmark = pytest.mark.matrix

SHT_NOTE, SHT_GNU_SFRAME = 7, 0x6FFFFFF4
SHF_LINK_ORDER, SHF_COMPRESSED = 0x80, 0x800
SHF_GNU_RETAIN, SHF_X86_64_LARGE, SHF_EXCLUDE = 0x200000, 0x10000000, 0x80000000
TYPE, FLAGS, OFFSET, SIZE, INFO, ENTRY = (
    (4, "I"),
    (8, "Q"),
    (24, "Q"),
    (32, "Q"),
    (44, "I"),
    (56, "Q"),
)

PICKS = """
#include "safe_call.h"
int table[4] = {1, 20, 300, 4000};
int* const second = &table[1];
__attribute__((noinline)) int pick(int i) { return table[i]; }
__attribute__((noinline)) int choose(int i) {
  switch (i) {
    case 0: return pick(3);
    case 1: return *second / 2;
    case 2: return pick(1) - 7;
    case 3: return table[0] = 5;
    default: return -1;
  }
}
EXPORT(run) { RETURN(pick(INT(0)) * 10 + *second + choose(INT(0))); }
"""
ARGUMENTS = (0, 1, 2, 3)


def headers(content: bytes) -> Iterator[tuple[str, int]]:
    """Give the name of each section of an object, and where its header lies."""
    table, count, names = (
        struct.unpack_from("<Q", content, 40)[0],
        *struct.unpack_from("<HH", content, 60),
    )
    (strings,) = struct.unpack_from("<Q", content, table + 64 * names + OFFSET[0])
    for at in range(table, table + 64 * count, 64):
        begin = strings + struct.unpack_from("<I", content, at)[0]
        yield content[begin : content.index(b"\0", begin)].decode(), at


def field(content: bytes, name: str, which: tuple[int, str]) -> int:
    """Return a field of the header of section `name`."""
    at = dict(headers(content))[name]
    value: int = struct.unpack_from(f"<{which[1]}", content, at + which[0])[0]
    return value


def changed(content: bytes, name: str, which: tuple[int, str], value: int) -> bytes:
    """Return the object with another value in a field of the header of section `name`."""
    result = bytearray(content)
    at = dict(headers(content))[name]
    struct.pack_into(f"<{which[1]}", result, at + which[0], value)
    return bytes(result)


def names_of_type(content: bytes, kind: int) -> list[str]:
    return [
        name
        for name, at in headers(content)
        if struct.unpack_from("<I", content, at + TYPE[0])[0] == kind
    ]


@functools.cache
def has_flags(toolchain: Toolchain, *flags: str) -> bool:
    """Tell whether a compiler takes the flags."""
    command = [toolchain.cc, *flags, "-c", "-x", "c", "-o", "/dev/null", "-"]
    done = subprocess.run(command, input="int n;\n", text=True, capture_output=True, check=False)
    return done.returncode == 0


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


LOADED_TYPES = [
    12,
    13,
    20,
    0x1000,
    0x40000020,
    0x60001234,
    0x6FFF4C99,
    0x70000000,
    0x70000055,
    0x7FFFFFFF,
    0x80000001,
    0xFFFFFFFF,
]


@pytest.mark.parametrize("kind", LOADED_TYPES, ids=hex)
@pytest.mark.parametrize("flags", [0, SHF_WRITE, SHF_EXECINSTR], ids=["constant", "data", "code"])
def test_a_loaded_section_of_an_unknown_type(refusal: Refusal, kind: int, flags: int) -> None:
    odd = Section(".odd.section", kind, SHF_ALLOC | flags, bytes(16), alignment=8)
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".odd.section") as caught:
        refusal.dylib.load(function(odd))
    assert f"{kind:x}" in str(caught.value).lower()


@pytest.mark.parametrize("kind", LOADED_TYPES, ids=hex)
@pytest.mark.parametrize("section", [".text", ".data", ".rodata", ".bss", ".eh_frame"])
def test_a_section_of_a_compiler_with_an_unknown_type(
    refusal: Refusal, compile: Compiler, section: str, kind: int
) -> None:
    source = PICKS + 'static int zeros[9]; const char* text(void) { return zeros[3]++ ? "" : "x"; }'
    content = compile(source + "\nconst int constant[3] = {1, 2, 3};\n").read_bytes()
    with refusal.of(tol.ObjectFormatError, "<bytes>", section):
        refusal.dylib.load(changed(content, section, TYPE, kind))


LOADED_FLAGS = [
    0x8,
    0x100,
    SHF_COMPRESSED,
    0x1000,
    0x8000,
    0x80000,
    0x100000,
    0x400000,
    0x8000000,
    0x20000000,
    0x40000000,
    1 << 32,
    1 << 63,
    0x100 | 0x20000000,
]


@pytest.mark.parametrize("flags", LOADED_FLAGS, ids=hex)
@pytest.mark.parametrize("kind", [SHT_PROGBITS, SHT_NOBITS, SHT_NOTE])
def test_a_loaded_section_with_an_unknown_flag(refusal: Refusal, kind: int, flags: int) -> None:
    size = 16 if kind == SHT_NOBITS else None
    content = b"" if kind == SHT_NOBITS else bytes(16)
    odd = Section(".odd.section", kind, SHF_ALLOC | flags, content, alignment=8, size=size)
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".odd.section"):
        refusal.dylib.load(function(odd))


@pytest.mark.parametrize("flags", LOADED_FLAGS, ids=hex)
@pytest.mark.parametrize("section", [".text", ".data", ".eh_frame"])
def test_a_section_of_a_compiler_with_an_unknown_flag(
    refusal: Refusal, compile: Compiler, section: str, flags: int
) -> None:
    content = compile(PICKS).read_bytes()
    flags |= field(content, section, FLAGS)
    with refusal.of(tol.ObjectFormatError, "<bytes>", section):
        refusal.dylib.load(changed(content, section, FLAGS, flags))


@pytest.mark.parametrize("flag", [0x100000, 0x100, 0x20000000, 0x8], ids=hex)
def test_the_unknown_flag_is_named(refusal: Refusal, compile: Compiler, flag: int) -> None:
    content = compile(PICKS).read_bytes()
    flags = field(content, ".data", FLAGS) | flag
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".data") as caught:
        refusal.dylib.load(changed(content, ".data", FLAGS, flags))
    said = str(caught.value).lower()
    # The flag alone or all flags, as a number; or its name.
    assert re.search(rf"0x0*({flag:x}|{flags:x})\b|nonconforming", said)


def test_compressed_and_loaded_is_named(refusal: Refusal) -> None:
    packed = Section(".packed", SHT_PROGBITS, SHF_ALLOC | SHF_COMPRESSED, bytes(32), alignment=8)
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".packed", "ompressed"):
        refusal.dylib.load(function(packed))


def test_the_object_of_the_section_is_named(
    refusal: Refusal, compile: Compiler, tmp_path: Path
) -> None:
    odd = tmp_path / "odd.o"
    odd.write_bytes(function(Section(".odd.section", 0x60001234, SHF_ALLOC, bytes(16))))
    innocent = compile("int innocent(void) { return 1; }\n", name="innocent")
    with refusal.of(tol.ObjectFormatError, odd, ".odd.section") as caught:
        refusal.dylib.load([innocent, odd])
    assert "innocent" not in str(caught.value)


def agrees(session: tol.Session, compile: Compiler, path: Path, reference: Path) -> None:
    """The functions named ``run`` of `path` and of the linked `reference` give the same."""
    dlopened = compile.dlopen(reference)
    loaded = session.load(path)
    results = [loaded["run"](argument) for argument in ARGUMENTS]
    assert results == [dlopened.run(argument) for argument in ARGUMENTS]
    assert results[0] != results[1]


HARMLESS: dict[str, tuple[Toolchain | None, tuple[str, ...]]] = {
    "notes": (
        GCC,
        (
            PROCESSOR.branch_protection,
            "-Wa,-mx86-used-note=yes",
        ),
    ),
    "commands": (GCC, ("-frecord-gcc-switches",)),
    "SFrame": (GCC, ("-Wa,--gsframe",)),
    "debug": (GCC, ("-g",)),
    "compressed debug": (
        GCC,
        (
            "-g",
            "-gz",
        ),
    ),
    "LTO beside code": (
        GCC,
        (
            "-flto",
            "-ffat-lto-objects",
        ),
    ),
    "patchable": (GCC, ("-fpatchable-function-entry=4",)),
    "large data": (
        GCC,
        (
            "-mcmodel=medium",
            "-mlarge-data-threshold=4",
        ),
    ),
    "large code": (CLANG, ("-mcmodel=large",)),
    "address significance": (CLANG, ("-faddrsig",)),
    "no address significance": (CLANG, ("-fno-addrsig",)),
    "stack sizes": (CLANG, ("-fstack-size-section",)),
    "basic blocks": (CLANG, ("-fbasic-block-address-map",)),
    "calls": (CLANG, ("-fexperimental-call-graph-section",)),
    "probes": (CLANG, ("-fpseudo-probe-for-profiling",)),
    "bitcode beside code": (CLANG, ("-fembed-bitcode",)),
    "LLVM's LTO beside code": (
        CLANG,
        (
            "-flto",
            "-ffat-lto-objects",
        ),
    ),
    "command line": (CLANG, ("-frecord-command-line",)),
    "split debug in one file": (
        CLANG,
        (
            "-g",
            "-gsplit-dwarf=single",
        ),
    ),
    "LLVM's SFrame": (CLANG, ("-Wa,--allow-experimental-sframe,--gsframe",)),
    "type hashes": (
        CLANG,
        (
            "-fsanitize=kcfi",
            PROCESSOR.branch_protection,
        ),
    ),
    "jump tables": (
        CLANG,
        (
            "-mllvm",
            "-emit-jump-table-sizes-section",
        ),
    ),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_sections_that_say_something_to_others(
    session: tol.Session, compile: Compiler, kind: str
) -> None:
    toolchain, flags = HARMLESS[kind]
    if toolchain is None or not has_flags(toolchain, *flags):
        pytest.skip("no compiler with these flags")
    path = compile(PICKS, "-O2", "-fPIC", *flags, toolchain=toolchain)
    agrees(session, compile, path, compile(PICKS, "-O2", "-fPIC"))


ANNOTATED = """
    .cg_profile __tvm_ffi_run, other, 20
    .addrsig
    .addrsig_sym other
    .section .deplibs, "MS", @llvm_dependent_libraries, 1
    .asciz "m"
    .section .linker-options, "e", @llvm_linker_options
    .asciz "option", "value"
    .section .llvm.sympart, "", @llvm_sympart
    .section .llvm.odr, "e", @llvm_odrtab
    .section .llvm.offloading, "e", @llvm_offloading
    .section .gnu.attributes, "", @0x6ffffff5
    .byte 65
"""


@pytest.mark.skipif(CLANG is None, reason="no clang")
def test_what_only_llvms_assembler_writes(session: tol.Session, compile: Compiler) -> None:
    assert CLANG is not None
    statements = "\\n".join(line.strip().replace('"', '\\"') for line in ANNOTATED.splitlines())
    source = f'{PICKS}\nint other(void) {{ return 1; }}\n__asm__("{statements}\\n.text\\n");\n'
    path = compile(source, toolchain=CLANG)
    content = path.read_bytes()
    assert names_of_type(content, SHT_REL) == [".rel.llvm.call-graph-profile"]
    agrees(session, compile, path, compile(PICKS))


UNLOADED = {
    "range of applications": (0x80000001, 0),
    "end of applications": (0xFFFFFFFF, 0),
    "attributes": (0x6FFFFFF5, 0),
    "note": (SHT_NOTE, 0),
    "excluded": (SHT_PROGBITS, SHF_EXCLUDE),
    "excluded, of an application": (0x80000001, SHF_EXCLUDE),
    "excluded, of LLVM": (0x6FFF4C99, SHF_EXCLUDE),
    "excluded, though it would be loaded": (SHT_PROGBITS, SHF_EXCLUDE | SHF_ALLOC),
    "compressed": (SHT_PROGBITS, SHF_COMPRESSED),
    "unknown flag": (SHT_PROGBITS, 0x100000),
    "unknown flag of a processor": (SHT_PROGBITS, 0x20000000),
}


@pytest.mark.parametrize("kind", UNLOADED)
@pytest.mark.parametrize("relocated", [False, True], ids=["plain", "relocated"])
def test_a_section_that_is_not_loaded(
    session: tol.Session, compile: Compiler, tmp_path: Path, kind: str, relocated: bool
) -> None:
    section = Section(".aside", *UNLOADED[kind], bytes(32), alignment=8)
    more = [relocations(".aside", relocation(8, 1, ABSOLUTE_64))] if relocated else []
    path = tmp_path / "aside.o"
    path.write_bytes(function(section, *more))
    compile.link(path, flags=("-Wl,-z,noexecstack",), quiet=True)  # the linker takes it, too
    dylib = session.load(path)
    assert dylib["f"]() is None


@pytest.mark.parametrize("kind", [0x60001234, 0x6FFF4C99, 0x6FFFFF00], ids=hex)
def test_a_section_of_an_unknown_type_that_is_not_loaded(refusal: Refusal, kind: int) -> None:
    # Linkers pass over it; to say that it is not understood is right, too.
    content = function(Section(".aside", kind, 0, bytes(32), alignment=8))
    said = ""
    try:
        assert refusal.session.load(content)["f"]() is None
    except tol.ObjectFormatError as error:
        said = str(error)
    assert not said or (".aside" in said and f"{kind:x}" in said.lower())


KNOWN = {
    "retained": (SHT_PROGBITS, SHF_GNU_RETAIN),
    "large": (SHT_PROGBITS, SHF_X86_64_LARGE),
    "large and retained": (SHT_PROGBITS, SHF_X86_64_LARGE | SHF_GNU_RETAIN | SHF_WRITE),
    "a note": (SHT_NOTE, 0),
    "a retained note": (SHT_NOTE, SHF_GNU_RETAIN),
    "mergeable": (SHT_PROGBITS, 0x10),
    "strings": (SHT_PROGBITS, 0x30),
    "thread-local": (SHT_PROGBITS, SHF_TLS | SHF_WRITE),
    "in the order of another": (SHT_PROGBITS, SHF_LINK_ORDER),
    "SFrame's own type": (SHT_GNU_SFRAME, 0),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_types_and_flags_that_are_known(
    session: tol.Session, compile: Compiler, tmp_path: Path, kind: str
) -> None:
    number, flags = KNOWN[kind]
    link = ".text" if flags & SHF_LINK_ORDER else 0
    entry = 8 if flags & 0x10 else 0
    section = Section(".known", number, SHF_ALLOC | flags, bytes(16), link, 0, 8, entry)
    path = tmp_path / "known.o"
    path.write_bytes(function(section))
    compile.link(path, flags=("-Wl,-z,noexecstack",), quiet=True)
    assert session.load(path)["f"]() is None


# Relocations that are for nothing.


def exporting(*extra: Section, section: int = 2, offset: int = 0) -> bytes:
    """Return an object with a ``variable`` at that place, besides the function ``f``.

    Of the sections, 1 is .text, 2 is .data and 3 is the first of `extra`.
    """
    variable = symbol(13, section, offset, 8, STT_OBJECT, STB_GLOBAL)
    return function(*extra, symbols=variable, names=b"variable\0")


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


# CREL, a compact format of relocation tables (SHT_CREL).

CREL_FLAGS = ("-Wa,--crel,--allow-experimental-crel",)
needs_crel = pytest.mark.skipif(
    CLANG is None or not has_flags(CLANG, *CREL_FLAGS), reason="no clang that writes CREL"
)
CREL_MODELS = {
    "plain": (),
    "sections": ("-ffunction-sections", "-fdata-sections"),
    "debug": ("-g", "-ffunction-sections"),
    "no PLT": ("-fno-plt",),
    "large": ("-mcmodel=large",),
    "patchable": ("-fpatchable-function-entry=4,2",),
    "no section groups": ("-fno-unique-section-names",),
}
IN_C = """
#include <stdlib.h>
#include <string.h>
static int64_t twice(int64_t n) { return 2 * n; }
static int64_t square(int64_t n) { return n * n; }
static int64_t (*const functions[])(int64_t) = {twice, square, labs, twice};
int64_t numbers[600] = {5, 6, 7};
int64_t* const inside[] = {&numbers[2], &numbers[1], &numbers[0], &numbers[599]};
static const char* const words[] = {"zero", "one", "three", "fourteen"};
_Thread_local int64_t counter = 3;
__attribute__((constructor)) static void init(void) { numbers[599] = 1000; }
EXPORT(run) {
  int64_t n = INT(0);
  RETURN(functions[n](n - 7) + *inside[n] + strlen(words[n]) * 100 + counter++);
}
"""
IN_CXX = """
#include <map>
#include <stdexcept>
#include <string>
struct Base { virtual ~Base() = default; virtual int64_t get(int64_t n) const = 0; };
struct Thrower : Base {
  int64_t get(int64_t n) const override {
    if (n == 1) throw std::out_of_range("a text that is longer than a short string");
    if (n == 2) throw n;
    return n + 7;
  }
};
template <typename T> struct Counted {
  static T alive;
  Counted() { ++alive; }
  ~Counted() { --alive; }
};
template <typename T> T Counted<T>::alive = 0;
static std::map<std::string, int64_t> initialized = {{"one", 1}, {"two", 20}};
__attribute__((noinline)) int64_t call(const Base& base, int64_t n) {
  Counted<int64_t> counted;
  return base.get(n);
}
EXPORT(run) {
  static const Thrower thrower;
  int64_t result;
  try {
    result = call(thrower, INT(0));
  } catch (const std::exception& error) {
    result = std::string(error.what()).size() * 100;
  } catch (int64_t n) {
    result = -n;
  }
  RETURN(result + Counted<int64_t>::alive + initialized["two"] * 100000);
}
"""
TEXTS = {"c": '#include "safe_call.h"\n' + IN_C, "c++": '#include "safe_call.h"\n' + IN_CXX}


@needs_crel
@pytest.mark.parametrize("model", CREL_MODELS)
@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("language", ["c", "c++"])
def test_crel_loads(
    session: tol.Session, compile: Compiler, language: str, level: str, model: str
) -> None:
    assert CLANG is not None
    flags = (level, "-fPIC", *CREL_MODELS[model])
    make = compile if language == "c" else compile.cxx
    path = make(TEXTS[language], *flags, *CREL_FLAGS, toolchain=CLANG)
    content = path.read_bytes()
    assert names_of_type(content, SHT_CREL)
    assert not names_of_type(content, SHT_RELA)
    agrees(session, compile, path, make(TEXTS[language], *flags, toolchain=CLANG))


@needs_crel
def test_crel_of_many_functions(session: tol.Session, compile: Compiler) -> None:
    assert CLANG is not None
    count = 2000
    source = '#include "safe_call.h"\n' + "".join(
        f"int64_t data_{n} = {n};\nint64_t f_{n}(void) {{ return data_{n}; }}\n"
        for n in range(count)
    )
    source += f"int64_t (*all[])(void) = {{{', '.join(f'f_{n}' for n in range(count))}}};\n"
    source += f"EXPORT(run) {{ int64_t t = 0; for (int i = 0; i < {count}; ++i)"
    source += " t += all[i]() * (i % 3 + INT(0)); RETURN(t); }\n"
    flags = ("-O0", "-fPIC", "-ffunction-sections")
    path = compile(source, *flags, *CREL_FLAGS, toolchain=CLANG)
    agrees(session, compile, path, compile(source, *flags, toolchain=CLANG))


@needs_crel
def test_crel_beside_others(session: tol.Session, compile: Compiler, tmp_path: Path) -> None:
    assert CLANG is not None
    user = (
        '#include "safe_call.h"\nint64_t part(int64_t n);\nEXPORT(run) { RETURN(part(INT(0))); }\n'
    )
    part = (
        '#include "safe_call.h"\nint64_t data = 5;\nint64_t part(int64_t n) { return n * data; }\n'
    )
    plain = [compile(source, toolchain=CLANG) for source in (user, part)]
    crel = [
        compile(source, "-O2", "-fPIC", *CREL_FLAGS, toolchain=CLANG) for source in (user, part)
    ]
    expected = [compile.dlopen(*plain).run(n) for n in ARGUMENTS]
    archive = tmp_path / "part.a"
    subprocess.run(["ar", "rcS", archive, crel[1]], check=True)
    for objects in ([plain[0], crel[1]], [crel[0], plain[1]], crel, [plain[0], archive]):
        dylib = session.load(objects)
        assert [dylib["run"](n) for n in ARGUMENTS] == expected


@needs_crel
def test_crel_with_an_undefined_symbol(refusal: Refusal, compile: Compiler) -> None:
    assert CLANG is not None
    source = "int missing(void);\nint use(void) { return missing(); }\n"
    path = compile(source, "-O2", "-fPIC", *CREL_FLAGS, toolchain=CLANG)
    with refusal.of(tol.UndefinedSymbolError, path, "missing") as caught:
        refusal.dylib.load(path)
    assert isinstance(caught.value, tol.UndefinedSymbolError)
    assert caught.value.symbols == ("missing",)


@needs_crel
@pytest.mark.parametrize("language", ["c", "c++"])
def test_crel_that_is_cut(refusal: Refusal, compile: Compiler, language: str) -> None:
    assert CLANG is not None
    make = compile if language == "c" else compile.cxx
    path = make(TEXTS[language], "-O2", "-fPIC", *CREL_FLAGS, toolchain=CLANG)
    content = path.read_bytes()
    size = field(content, ".crel.text", SIZE)
    assert size > 20
    for cut in {*range(0, size, max(1, size // 40)), size - 1, size - 2, 1, 2}:
        with refusal.of(tol.ObjectFormatError, "<bytes>"):
            refusal.dylib.load(changed(content, ".crel.text", SIZE, cut))


@pytest.mark.parametrize("content", [b"\x80", b"\x0c\x07", b"\x0c\x07\x01\x01\x08\0\0"], ids=len)
def test_the_malformed_table_is_named(refusal: Refusal, content: bytes) -> None:
    with refusal.of(tol.ObjectFormatError, "<bytes>", ".crel.data"):
        refusal.dylib.load(with_crel(content))


def uleb(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def sleb(value: int) -> bytes:
    out = bytearray()
    while not -64 <= value < 64:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    return bytes([*out, value & 0x7F])


Entry = tuple[int, int, int, int]  # offset, symbol, type, addend


def crel(*entries: Entry, addends: bool = True, shift: int = 0, count: int | None = None) -> bytes:
    """Return the content of an SHT_CREL section."""
    bits = 3 if addends else 2
    number = len(entries) if count is None else count
    out = uleb(number << 3 | addends << 2 | shift)
    last: Entry = (0, 0, 0, 0)
    for entry in entries:
        offset, symbol_, kind, addend = (new - old for new, old in zip(entry, last, strict=True))
        low = (symbol_ != 0) | (kind != 0) << 1 | (addend != 0 and addends) << 2
        offset = (offset >> shift) % (1 << 64)
        first = offset % (1 << (7 - bits)) << bits | low
        rest = offset >> (7 - bits)
        out += bytes([first | 0x80]) + uleb(rest) if rest else bytes([first])
        for changed_, present in ((symbol_, True), (kind, True), (addend, addends)):
            if changed_ and present:
                out += sleb((changed_ + (1 << 63)) % (1 << 64) - (1 << 63))
        last = entry
    return out


def with_crel(content: bytes, name: str = ".crel.data") -> bytes:
    """Return an object with data of 16 bytes to which CREL relocations apply."""
    of = name.removeprefix(".crel")
    return exporting(Section(name, SHT_CREL, 0, content, ".symtab", of, 1, 1))


POINTS = (0, 1, ABSOLUTE_64, 8)
WHOLE: dict[str, tuple[list[Entry], int]] = {
    "none": ([], 0),
    "one": ([POINTS], 0),
    "two": ([POINTS, (8, 1, ABSOLUTE_64, 0)], 0),
    "backwards": ([(8, 2, ABSOLUTE_64, 3), (0, 1, ABSOLUTE_64, -(1 << 63))], 0),
    "largest addend": ([POINTS, (8, 2, ABSOLUTE_64, (1 << 63) - 1)], 0),
    "addends of one byte": ([(0, 1, ABSOLUTE_64, 63), (8, 1, ABSOLUTE_64, -1)], 0),
    "addends of two bytes": ([(0, 1, ABSOLUTE_64, 64), (8, 1, ABSOLUTE_64, -65)], 0),
    "shifted by one": ([(0, 1, ABSOLUTE_64, 0), (8, 3, RELATIVE_32, 0)], 1),
    "shifted by two": ([(4, 1, ABSOLUTE_64, 7), (12, 1, RELATIVE_32, 1)], 2),
    "shifted by three": ([(8, 3, ABSOLUTE_64, 1), (0, 2, ABSOLUTE_64, -1)], 3),
    "no relocation": (
        [(0, 1, RELATIVE_32, 1), (4, 0, PROCESSOR.none, 0), (8, 1, ABSOLUTE_64, 9)],
        0,
    ),
}


@pytest.mark.parametrize("form", ["RELA", "CREL"])
@pytest.mark.parametrize("kind", WHOLE)
def test_crel_written_by_hand(session: tol.Session, kind: str, form: str) -> None:
    entries, shift = WHOLE[kind]
    if form == "CREL":
        content = crel(*entries, shift=shift)
        table = Section(".crel.data", SHT_CREL, 0, content, ".symtab", ".data", 1, 1)
    else:
        table = relocations(".data", *(relocation(*entry) for entry in entries))
    variable = symbol(13, 2, 8, 8, STT_OBJECT, STB_GLOBAL)
    dylib = session.load(function(table, symbols=variable, names=b"variable\0"))
    data = dylib.lookup("variable") - 8
    addresses = {1: data, 2: dylib.lookup("__tvm_ffi_f"), 3: data + 8}
    expected = bytearray(16)
    for offset, number, type_, addend in entries:
        if type_ == ABSOLUTE_64:
            value = (addresses[number] + addend) % (1 << 64)
            struct.pack_into("<Q", expected, offset, value)
        elif type_ == RELATIVE_32:
            struct.pack_into("<i", expected, offset, addresses[number] + addend - data - offset)
    assert ctypes.string_at(data, 16) == bytes(expected)


@pytest.mark.parametrize("shift", [0, 3])
def test_crel_without_addends(session: tol.Session, shift: int) -> None:
    # What no processor here has: it has a meaning, if it is not refused.
    entries: list[Entry] = [(0, 1, ABSOLUTE_64, 0), (8, 2, ABSOLUTE_64, 0)]
    content = crel(*entries, addends=False, shift=shift)
    table = Section(".crel.data", SHT_CREL, 0, content, ".symtab", ".data", 1, 1)
    variable = symbol(13, 2, 8, 8, STT_OBJECT, STB_GLOBAL)
    try:
        dylib = session.load(function(table, symbols=variable, names=b"variable\0"))
    except tol.ObjectFormatError:
        return
    data = dylib.lookup("variable") - 8
    expected = struct.pack("<QQ", data, dylib.lookup("__tvm_ffi_f"))
    assert ctypes.string_at(data, 16) == expected


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "no header"),
        (b"\x80", "cut header"),
        (b"\x80" * 10, "header without end"),
        (b"\xff" * 20, "header of 140 bits"),
        (crel(count=1), "count, nothing else"),
        (crel(POINTS, count=2), "count too large by one"),
        (crel(POINTS, count=1 << 40), "count of a trillion"),
        (crel(POINTS, count=(1 << 61) - 1), "largest count"),
        (crel(POINTS, count=0), "count too small"),
        (crel(POINTS, (8, 1, ABSOLUTE_64, 0), count=1), "count too small by one"),
        (crel(POINTS) + b"\0", "one byte more"),
        (crel(POINTS) + bytes(20), "20 bytes more"),
        (crel(POINTS)[:-1], "cut by one"),
        (crel(POINTS)[:2], "cut to two"),
        (crel((0, 1, ABSOLUTE_64, 1 << 40))[:-2], "cut in an addend"),
        (b"\x0c\x07\x01\x01" + b"\xff" * 12 + b"\x01", "addend of 90 bits"),
        (b"\x0c\x07" + b"\xff" * 6 + b"\x00\x01\x08", "symbol of 42 bits"),
        (b"\x0c\x07\x7f\x01\x08", "symbol below zero"),
        (crel((0, 77, ABSOLUTE_64, 0)), "symbol that is missing"),
        (crel((0, 0xFFFFFFFF, ABSOLUTE_64, 0)), "symbol far off"),
        (crel((16, 1, ABSOLUTE_64, 0)), "past the section's end"),
        (crel((9, 1, ABSOLUTE_64, 0)), "over the section's end"),
        (crel((1 << 62, 1, ABSOLUTE_64, 0)), "far past the end"),
        (crel((16, 1, ABSOLUTE_64, 0), shift=3), "past the end, shifted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_crel_that_is_malformed(refusal: Refusal, content: bytes, kind: str) -> None:
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(with_crel(content))


@pytest.mark.parametrize("kind", [99, 200, 255, 1 << 20])
def test_crel_with_an_unknown_type_of_relocation(refusal: Refusal, kind: int) -> None:
    with pytest.raises(tol.ObjectLoaderError) as caught:
        refusal.dylib.load(with_crel(crel((0, 1, kind, 0))))
    assert str(kind) in str(caught.value) or hex(kind) in str(caught.value)


def test_crel_of_sections_that_take_none(refusal: Refusal, session: tol.Session) -> None:
    aside = Section(".aside", SHT_PROGBITS, 0, bytes(16), alignment=8)
    table = Section(".crel.aside", SHT_CREL, 0, crel(POINTS), ".symtab", ".aside", 1, 1)
    assert session.load(function(aside, table))["f"]() is None
    bss = Section(".bss", SHT_NOBITS, SHF_ALLOC | SHF_WRITE, size=16, alignment=8)
    table = Section(".crel.bss", SHT_CREL, 0, crel(POINTS), ".symtab", ".bss", 1, 1)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(exporting(bss, table, section=3))
    table = Section(".crel.data", SHT_CREL, 0, crel(POINTS), ".symtab", 99, 1, 1)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(function(table))
    table = Section(".crel.symtab", SHT_CREL, 0, crel(POINTS), ".symtab", ".symtab", 1, 1)
    with refusal.of(tol.ObjectFormatError, "<bytes>"):
        refusal.dylib.load(function(table))
