# SPDX-License-Identifier: Apache-2.0
"""Types of AArch64's relocations that assemblers do not emit, or that are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from assembly import RUN
from compilation import Compiler
from kinds_of_relocations import DATA
from patching import with_relocation_type
from processors import AARCH64, only_on
from refusal import Refusal

pytestmark = only_on(AARCH64, "x86-64 has types of its own, in test_relocations.py")

ABS64, ABS32, PREL32 = 257, 258, 261
WORDS = (10, 200, 3000, 0)

# Each body finds labs or words by the field, whose relocation is changed to another type.
CALLED = """
body:
    stp x29, x30, [sp, #-16]!
    adrp x2, field
    add x2, x2, :lo12:field
    ldrsw x3, [x2]
    add x3, x3, x2
    neg x0, x1
    blr x3
    ldp x29, x30, [sp], #16
    ret
    .data
field: .word labs - .
"""
BY_SLOT = """
body:
    adrp x2, field
    add x2, x2, :lo12:field
    ldrsw x3, [x2]
    ldr x2, [x2, x3]
    ldr x0, [x2, x1, lsl #3]
    ret
    .section .data.field, "aw"
field: .word words - .
"""
FROM_TABLE = """
body:
    adrp x2, field
    LOAD x2, [x2, :lo12:field]
    adrp x3, _GLOBAL_OFFSET_TABLE_
    add x3, x3, :lo12:_GLOBAL_OFFSET_TABLE_
    add x2, x2, x3
    ldr x0, [x2, x1, lsl #3]
    ret
    .data
    .balign 8
field: WORD words
"""
FROM_TABLE_64 = FROM_TABLE.replace("LOAD", "ldr").replace("WORD", ".quad")
FROM_TABLE_32 = FROM_TABLE.replace("LOAD", "ldrsw").replace("WORD", ".word")


@pytest.mark.parametrize(
    ("body", "assembled", "number", "expected"),
    [
        pytest.param(CALLED, PREL32, 314, (0, 1, 2, 3), id="R_AARCH64_PLT32"),
        pytest.param(BY_SLOT, PREL32, 315, WORDS, id="R_AARCH64_GOTPCREL32"),
        pytest.param(FROM_TABLE_64, ABS64, 307, WORDS, id="R_AARCH64_GOTREL64"),
        pytest.param(FROM_TABLE_32, ABS32, 308, WORDS, id="R_AARCH64_GOTREL32"),
    ],
)
def test_types_that_assemblers_do_not_emit(
    session: tol.Session,
    compile: Compiler,
    body: str,
    assembled: int,
    number: int,
    expected: tuple[int, ...],
) -> None:
    path = compile(RUN + DATA + "    .text\n" + body, "-c", language="assembler")
    content = with_relocation_type(path.read_bytes(), assembled, number)
    assert tuple(session.load(content)["run"](n) for n in range(4)) == expected


def test_the_first_number_of_no_relocation(session: tol.Session, compile: Compiler) -> None:
    source = RUN + DATA + "\n.text\nbody: number 7\nret\n.data\nfield: .quad labs\n"
    path = compile(source, "-c", language="assembler")
    content = with_relocation_type(path.read_bytes(), ABS64, 256)
    assert session.load(content)["run"](0) == 7


def refused_object(compile: Compiler, directives: str) -> Path:
    source = RUN + DATA + f"\n.text\nbody: ret\n{directives}\n"
    return compile(source, "-c", language="assembler", name="refused")


@pytest.mark.parametrize(
    ("directives", "said"),
    [
        (".data\nf: .word optarg\n", ["R_AARCH64_ABS32", "optarg"]),
        (".data\nf: .hword value\n", ["R_AARCH64_ABS16", "value"]),
        ("movz x0, #:abs_g0:value\n", ["R_AARCH64_MOVW_UABS_G0", "value"]),
        ("tbz x0, #0, value+0x20000\n", ["R_AARCH64_TSTBR14", "value"]),
        ("ldr x0, [x0, :lo12:value+4]\n", ["R_AARCH64_LDST64_ABS_LO12_NC", "value"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
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
        (1024, "R_AARCH64_COPY"),
        (1025, "R_AARCH64_GLOB_DAT"),
        (1026, "R_AARCH64_JUMP_SLOT"),
        (1027, "R_AARCH64_RELATIVE"),
        (1032, "R_AARCH64_IRELATIVE"),
        (200, "type 200"),
    ],
)
def test_types_that_no_object_has(
    refusal: Refusal, compile: Compiler, number: int, name: str
) -> None:
    path = refused_object(compile, ".data\nfield: .quad labs\n")
    content = with_relocation_type(path.read_bytes(), ABS64, number)
    with refusal.of(tol.LinkError, "<bytes>", name, "labs"):
        refusal.dylib.load(content)
