# SPDX-License-Identifier: Apache-2.0
"""Types and flags of sections: what is not understood and would be loaded is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import CLANG, GCC, Compiler, Toolchain
from elf_writer import (
    ABSOLUTE_64,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_TLS,
    SHF_WRITE,
    SHT_NOBITS,
    SHT_PROGBITS,
    SHT_REL,
    Section,
    function,
    relocation,
    relocations,
)
from processors import PROCESSOR
from refusal import Refusal
from section_headers import (
    FLAGS,
    PICKS,
    SHF_EXCLUDE,
    SHF_GNU_RETAIN,
    SHF_X86_64_LARGE,
    TYPE,
    agrees,
    changed,
    field,
    has_flags,
    names_of_type,
)

pytestmark = pytest.mark.matrix

SHT_NOTE, SHT_GNU_SFRAME = 7, 0x6FFFFFF4
SHF_LINK_ORDER, SHF_COMPRESSED = 0x80, 0x800


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
