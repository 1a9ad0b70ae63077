# SPDX-License-Identifier: Apache-2.0
"""AArch64: instructions that reach less far than what they are about lies, and what is refused."""

from __future__ import annotations

import ctypes

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from processors import AARCH64, only_on

pytestmark = only_on(AARCH64, "its instructions")

WORDS = """
    .data
    .balign 16
    .globl words
words: .quad 0x8877665544332211, 0x1122334455667788
"""
FUNCTION = """
    .text
    .globl function
    .type function, %function
function:
"""


def call(dylib: tol.Dylib, symbol: str = "function") -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_uint64)(dylib.lookup(symbol))())


def load(session: tol.Session, compile: Compiler, text: str, *flags: str) -> tol.Dylib:
    source = FUNCTION + text + "    ret\n" + WORDS
    return session.load(compile(source, *flags, language="assembler"))


LITERALS = {
    "w": ("ldr w0, words", 0x44332211),
    "w of a distance": ("ldr w0, words+4", 0x88776655),
    "x": ("ldr x0, words", 0x8877665544332211),
    "w to x": ("ldrsw x0, words+4", 0xFFFFFFFF88776655),
    "zero register": ("mov x0, 5\n ldr xzr, words", 5),
    "prefetch": ("mov x0, 5\n prfm pldl1keep, words", 5),
    "s": ("ldr s0, words\n fmov w0, s0", 0x44332211),
    "d": ("ldr d31, words+8\n fmov x0, d31", 0x1122334455667788),
    "q": ("ldr q7, words\n umov x0, v7.d[1]", 0x1122334455667788),
    "slot": ("ldr x0, :got:words\n ldr x0, [x0]", 0x8877665544332211),
    "address": ("adr x0, words+8\n ldr x0, [x0]", 0x1122334455667788),
}


@pytest.mark.parametrize("name", LITERALS)
def test_data_that_lies_farther_than_a_literal(
    session: tol.Session, compile: Compiler, name: str
) -> None:
    text, expected = LITERALS[name]
    # Whatever does it instead changes no other register.
    before = "mov x16, 77\n mov x17, 78\n mov x15, sp\n"
    after = "\n sub x16, x16, 77\n sub x17, x17, 78\n mov x14, sp\n sub x14, x14, x15\n"
    text = f"{before}{text}{after} add x0, x0, x16\n add x0, x0, x17\n add x0, x0, x14\n"
    dylib = load(session, compile, text)
    assert call(dylib) == expected
    distance = dylib.lookup("words") - dylib.lookup("function")
    assert abs(distance) > 1 << 20


LOW = """
    .globl low, lower
    .type lower, %function
    .text
lower: mov x0, 99
    ret
    .data
low: .quad 4711
pointer: .word low, lower
"""
FAR = {
    "address": "adrp x0, low\n add x0, x0, :lo12:low\n ldr x0, [x0]",
    "load": "adrp x1, low\n ldr x0, [x1, :lo12:low]",
    "load and store": "adrp x1, low\n ldr x0, [x1, :lo12:low]\n str x0, [x1, :lo12:low]",
    "tiny address": "adr x0, low\n ldr x0, [x0]",
    "tiny load": "ldr x0, low",
    "slot": "adrp x0, :got:low\n ldr x0, [x0, :got_lo12:low]\n ldr x0, [x0]",
    "large": "movz x0, :abs_g3:low\n movk x0, :abs_g2_nc:low\n movk x0, :abs_g1_nc:low\n"
    " movk x0, :abs_g0_nc:low\n ldr x0, [x0]",
}


@pytest.mark.parametrize("name", FAR)
def test_data_that_lies_farther_than_four_gigabytes(
    session: tol.Session, compile: Compiler, name: str
) -> None:
    base = session.load(compile(LOW, language="assembler"), name="low")
    assert base.lookup("low") < 1 << 31  # since 32 bits have its address
    source = FUNCTION + FAR[name] + "\n ret\n"
    path = compile(source, language="assembler")
    dylib = session.load(path, link_order=[base])
    assert dylib.lookup("function") - base.lookup("low") > 1 << 32
    assert call(dylib) == 4711
    assert call(dylib) == 4711


def test_functions_that_lie_farther_than_four_gigabytes(
    session: tol.Session, compile: Compiler
) -> None:
    base = session.load(compile(LOW, language="assembler"), name="low")
    source = f"""{FUNCTION}
    stp x29, x30, [sp, #-16]!
    bl lower
    mov x29, x0
    adrp x0, lower
    add x0, x0, :lo12:lower
    blr x0
    add x0, x0, x29
    cmp x0, 198
    ldp x29, x30, [sp], #16
    b.eq lower
    b function
"""
    dylib = session.load(compile(source, language="assembler"), link_order=[base])
    assert call(dylib) == 99


REFUSED = {
    "16 bits of an address": (".hword words", "R_AARCH64_ABS16.*out of range"),
    "a multiple of another size": (
        "adrp x0, words\n ldr x0, [x0, :lo12:words+4]",
        "R_AARCH64_LDST64_ABS_LO12_NC.*does not lie at a multiple of its size",
    ),
    "a slot for something behind a symbol": (
        "nop\n .reloc ., R_AARCH64_ADR_GOT_PAGE, words+8\n adrp x0, 0",
        "R_AARCH64_ADR_GOT_PAGE.*8 bytes behind a symbol",
    ),
    "what belongs into linked files": (
        "nop\n .reloc ., R_AARCH64_GLOB_DAT, words\n nop",
        "R_AARCH64_GLOB_DAT.*belongs into linked files",
    ),
    "a conditional branch": ("b.eq words", "R_AARCH64_CONDBR19.*no further than 1 MiB"),
    "a bit that is tested": ("tbz x0, 3, words", "R_AARCH64_TSTBR14.*32 KiB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(session: tol.Session, compile: Compiler, name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(tol.LinkError, match=message):
        load(session, compile, text + "\n")
