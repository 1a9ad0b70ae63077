# SPDX-License-Identifier: Apache-2.0
"""Types of x86-64's relocations that assemblers do not emit, or that are refused by name."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from assembly import RUN
from compilation import Compiler
from kinds_of_relocations import DATA
from patching import with_relocation_type
from processors import X86_64, only_on
from refusal import Refusal

pytestmark = only_on(X86_64, "AArch64 has types of its own, in test_aarch64_relocations.py")

NUMBERS = {
    "R_X86_64_PC32": 2,
    "R_X86_64_PLT32": 4,
    "R_X86_64_GOTPCREL": 9,
    "R_X86_64_64": 1,
    "R_X86_64_GOT64": 27,
}
# Types whose meaning is that of another one, to a linker that does not optimize.
EQUIVALENTS = [
    (30, "R_X86_64_GOT64", "R_X86_64_GOTPLT64"),
    (39, "R_X86_64_PC32", "R_X86_64_PC32_BND"),
    (40, "R_X86_64_PLT32", "R_X86_64_PLT32_BND"),
    (41, "R_X86_64_GOTPCREL", "R_X86_64_GOTPCRELX"),
    (43, "R_X86_64_GOTPCREL", "R_X86_64_CODE_4_GOTPCRELX"),
    (46, "R_X86_64_GOTPCREL", "R_X86_64_CODE_5_GOTPCRELX"),
    (49, "R_X86_64_GOTPCREL", "R_X86_64_CODE_6_GOTPCRELX"),
]
BODY = (
    RUN
    + DATA
    + """
    .text
body:
    leaq _GLOBAL_OFFSET_TABLE_(%rip), %rcx
    movabsq $value@GOT, %rax
    movq (%rax,%rcx), %rax
    movq (%rax), %rax
    pushq words@GOTPCREL(%rip)
    popq %rcx
    addq 8(%rcx), %rax
    addq words+16(%rip), %rax
    pushq %rax
    negq %rdi
    call labs@PLT
    popq %rcx
    addq %rcx, %rax
    ret
"""
)


@pytest.mark.parametrize(
    ("number", "like"), [case[:2] for case in EQUIVALENTS], ids=[case[2] for case in EQUIVALENTS]
)
def test_equivalent_types(session: tol.Session, compile: Compiler, number: int, like: str) -> None:
    # Since binutils 2.47 a push gets a type that lets linkers change it.
    path = compile(BODY, "-c", "-Wa,-mrelax-relocations=no", language="assembler")
    content = with_relocation_type(path.read_bytes(), NUMBERS[like], number)
    expected = [4100 + 200 + 3000 + n for n in range(4)]
    assert [session.load(path, name="plain")["run"](n) for n in range(4)] == expected
    assert [session.load(content, name="patched")["run"](n) for n in range(4)] == expected


LOW = 0x3133_7000


def test_a_call_through_the_table_to_an_address_below_4_gib(
    session: tol.Session, compile: Compiler
) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fixed_noreplace = 0x100000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed_noreplace
    page = libc.mmap(LOW, 4096, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if page != LOW:
        pytest.skip("the address is taken")
    ctypes.memmove(LOW, b"\x48\x8d\x47\x2a\xc3", 5)  # lea 42(%rdi), %rax; ret
    libc.mprotect(ctypes.c_void_p(LOW), ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC)
    try:
        code = compile(
            RUN
            + """
            body: call *low@GOTPCREL(%rip)
                movq %rax, %rdi
                jmp *low@GOTPCREL(%rip)
            """,
            "-c",
            language="assembler",
        )
        low = compile(f"\n.globl low\n.set low, {LOW}\n", "-c", language="assembler")
        assert session.load([code, low])["run"](1) == 85
    finally:
        libc.munmap(ctypes.c_void_p(LOW), ctypes.c_size_t(4096))


def refused_object(compile: Compiler, directives: str) -> Path:
    source = RUN + DATA + f"\n.text\nbody: ret\n{directives}\n"
    return compile(source, "-c", language="assembler", name="refused")


@pytest.mark.parametrize(
    ("directives", "said"),
    [
        (
            ".data\nf: .long 0\n.reloc f, R_X86_64_GOT32, value",
            ["R_X86_64_GOT32", "value", "-fPIC"],
        ),
        (
            ".data\nf: .quad 0\n.reloc f, R_X86_64_SIZE64, labs",
            ["R_X86_64_SIZE64", "labs", "ld -r"],
        ),
        # A variable of which CPython's executable has no copy within reach, as of environ.
        (".data\nf: .long optarg\n", ["R_X86_64_32 ", "optarg", "-fPIC"]),
        # Data that looks like an instruction that could be changed, and code that ends too early.
        (".data\n.byte 0, 0xbf\n.long optarg\n", ["R_X86_64_32 ", "optarg", "-fPIC"]),
        (
            '.section .text.end, "ax"\n.globl cut\ncut: movq $value, %rax\n.byte 0x80, 0x3d\n'
            ".long optarg - . - 5\n",
            ["R_X86_64_PC32", "optarg", "-fPIC"],
        ),
        ("pushq $optarg\n", ["R_X86_64_32S", "optarg", "-fPIC"]),
        ("pushq optarg(%rip)\nmovq $value, %rax\n", ["R_X86_64_PC32", "optarg", "-fPIC"]),
        (".data\nf: .word value\n", ["R_X86_64_16"]),
        (".data\nf: .byte value\n", ["R_X86_64_8"]),
        (".text\nf: .word value - .\n", ["R_X86_64_PC16"]),
        (".text\nf: .byte value - .\n", ["R_X86_64_PC8"]),
    ],
    ids=lambda value: value[0].strip() if isinstance(value, list) else "",
)
def test_what_is_out_of_reach_is_refused_by_name(
    refusal: Refusal, compile: Compiler, directives: str, said: list[str]
) -> None:
    path = refused_object(compile, directives)
    with refusal.of(tol.LinkError, path, *said):
        refusal.dylib.load(path)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (5, "R_X86_64_COPY"),
        (6, "R_X86_64_GLOB_DAT"),
        (7, "R_X86_64_JUMP_SLOT"),
        (8, "R_X86_64_RELATIVE"),
        (37, "R_X86_64_IRELATIVE"),
        (200, "type 200"),
    ],
)
def test_types_that_no_object_has(
    refusal: Refusal, compile: Compiler, number: int, name: str
) -> None:
    path = refused_object(compile, ".data\nfield: .quad labs\n")
    content = with_relocation_type(path.read_bytes(), NUMBERS["R_X86_64_64"], number)
    with refusal.of(tol.LinkError, "<bytes>", name, "labs"):
        refusal.dylib.load(content)
