# SPDX-License-Identifier: Apache-2.0
"""One kind for each type of relocation that compilers and assemblers emit for AArch64.

The types of thread-local storage are with the kinds of thread_local.
"""

from __future__ import annotations

import functools

from kinds_of_relocations import ABSOLUTE, RELATIVE, TABLE, relocation
from processors import AARCH64

__all__ = ["KINDS"]

NUMBERS = """
    .globl small, large, negative
    .set small, 0x1234
    .set large, 0x123456789abcdef0
    .set negative, -3
    .section .note.GNU-stack, "", %progbits
"""
words = (10, 200, 3000, 0)

relocation = functools.partial(relocation, processor=AARCH64)

KINDS = [
    relocation(
        ABSOLUTE,
        "R_AARCH64_ABS64",
        """
        stp x29, x30, [sp, #-16]!
        address pointers
        ldr x4, [x2, #8]
        neg x0, x1
        blr x4
        address pointers
        ldr x2, [x2]
        plus_there
        ldp x29, x30, [sp], #16
        ret
        .data
    pointers: .quad words+16, labs
        """,
    ),
    relocation(
        ABSOLUTE,
        "R_AARCH64_ABS32, R_AARCH64_ABS16",
        """
        take wide
        adr x2, narrow
        ldrh w3, [x2]
        add x0, x0, x3
        plus_argument
        ret
        .balign 8
    wide: .word small+5, negative
    narrow: .hword small+1
        """,
        NUMBERS,
        expected=tuple((0x1234 + 5 | 0xFFFFFFFD << 32) - (1 << 64) + 0x1235 + n for n in range(4)),
    ),
    relocation(
        ABSOLUTE,
        "R_AARCH64_MOVW_UABS_G0, …, R_AARCH64_MOVW_UABS_G3",
        """
        movz x0, #:abs_g3:large+1
        movk x0, #:abs_g2_nc:large+1
        movk x0, #:abs_g1_nc:large+1
        movk x0, #:abs_g0_nc:large+1
        movz x2, #:abs_g0:small
        add x0, x0, x2
        movz x2, #:abs_g1:small+0x10000
        add x0, x0, x2
        movz x2, #:abs_g2:small+0x300000000
        add x0, x0, x2
        movz x2, #:abs_g3:words
        movk x2, #:abs_g2_nc:words
        movk x2, #:abs_g1_nc:words
        movk x2, #:abs_g0_nc:words
        add x2, x2, x1, lsl #3
        plus_there
        ret
        """,
        NUMBERS,
        expected=tuple(
            0x123456789ABCDEF1 + 0x1234 + 0x10000 + 0x300000000 + word for word in words
        ),
    ),
    relocation(
        ABSOLUTE,
        "R_AARCH64_MOVW_SABS_G0, R_AARCH64_MOVW_SABS_G1, R_AARCH64_MOVW_SABS_G2",
        """
        movz x0, #:abs_g0_s:negative
        movz x2, #:abs_g0_s:small
        add x0, x0, x2
        movz x2, #:abs_g1_s:negative+0x20003
        add x0, x0, x2
        movz x2, #:abs_g2_s:negative+3-0x500000000
        movk x2, #:abs_g1_nc:negative+3-0x500000000
        movk x2, #:abs_g0_nc:negative+3-0x500000000
        add x0, x0, x2
        plus_argument
        ret
        """,
        NUMBERS,
        expected=tuple(-3 + 0x1234 + 0x20000 - 0x500000000 + n for n in range(4)),
    ),
    relocation(
        RELATIVE,
        "R_AARCH64_ADR_PREL_LO21, R_AARCH64_LD_PREL_LO19",
        """
        adr x2, words
        ldr x0, [x2, x1, lsl #3]
        ldr x2, value
        plus_pointer
        ret
        """,
    ),
    relocation(
        RELATIVE,
        "R_AARCH64_ADR_PREL_PG_HI21, R_AARCH64_ADD_ABS_LO12_NC",
        """
        adrp x2, words+8
        add x2, x2, :lo12:words+8
        ldr x0, [x2]
        adrp x2, :pg_hi21_nc:words
        add x2, x2, :lo12:words
        add x2, x2, x1, lsl #3
        plus_there
        ret
        """,
    ),
    relocation(
        RELATIVE,
        "R_AARCH64_LDST8_ABS_LO12_NC, …, R_AARCH64_LDST128_ABS_LO12_NC",
        """
        adrp x2, bytes
        ldrb w0, [x2, :lo12:bytes+1]
        ldrh w3, [x2, :lo12:bytes+2]
        add x0, x0, x3
        ldr w3, [x2, :lo12:bytes+4]
        add x0, x0, x3
        ldr x3, [x2, :lo12:bytes+8]
        add x0, x0, x3
        ldr q0, [x2, :lo12:bytes+16]
        add x4, x1, #10
        str x4, [x2, :lo12:bytes+8]
        strb w1, [x2, :lo12:bytes+1]
        fmov x3, d0
        add x0, x0, x3
        umov x3, v0.d[1]
        add x0, x0, x3
        ret
        .data
        .balign 16
    bytes: .byte 1, 2
        .hword 300
        .word 40000
        .quad 5000000, 600000000, 70000000000
        """,
    ),
    relocation(
        RELATIVE,
        "R_AARCH64_CALL26, R_AARCH64_JUMP26",
        """
        stp x29, x30, [sp, #-16]!
        neg x0, x1
        bl labs
        bl local
        ldp x29, x30, [sp], #16
        b local
        .section .text.local, "ax", %progbits
        .globl local
        .hidden local
        .type local, %function
    local: add x0, x0, #7
        ret
        """,
    ),
    relocation(
        RELATIVE,
        "R_AARCH64_CONDBR19, R_AARCH64_TSTBR14",
        """
        mov x0, #1000
        cmp x1, #2
        b.eq equal
        cbz x1, zero
        tbnz x1, #0, odd
        ret
        .section .text.branches, "ax", %progbits
        .globl equal, zero, odd
        .hidden equal, zero, odd
    equal: mov x0, #20
        ret
    zero: mov x0, #30
        ret
    odd: add x0, x0, x1
        ret
        """,
    ),
    relocation(
        RELATIVE,
        "R_AARCH64_PREL64, R_AARCH64_PREL32, R_AARCH64_PREL16",
        """
        address distances
        ldr x3, [x2]
        add x3, x3, x2
        ldr x0, [x3]
        ldrsw x3, [x2, #8]
        add x3, x3, x2
        ldr x3, [x3]
        add x0, x0, x3
        ldrsh x3, [x2, #12]
        add x3, x3, x2
        ldr x3, [x3]
        add x0, x0, x3
        plus_argument
        ret
        .section .near, "aw", %progbits
        .balign 8
    distances: .quad words+16 - .
        .word words+16 - .
        .hword there+4 - .
        .section .near.too, "aw", %progbits
    there: .quad 55, 66
        """.replace("words+16 - .\n        .hword", "words+8+8 - .\n        .hword"),
    ),
    relocation(
        RELATIVE,
        "R_AARCH64_MOVW_PREL_G0, …, R_AARCH64_MOVW_PREL_G3",
        """
    1:  movz x2, #:prel_g3:words
        movk x2, #:prel_g2_nc:words+4
        movk x2, #:prel_g1_nc:words+8
        movk x2, #:prel_g0_nc:words+12
        adr x3, 1b
        add x2, x2, x3
        ldr x0, [x2, #16]
    2:  movz x2, #:prel_g2:words
        movk x2, #:prel_g1_nc:words+4
        movk x2, #:prel_g0_nc:words+8
        adr x3, 2b
        add x2, x2, x3
        ldr x3, [x2, #8]
        add x0, x0, x3
    3:  movz x2, #:prel_g1:words
        movk x2, #:prel_g0_nc:words+4
        adr x3, 3b
        add x2, x2, x3
        ldr x3, [x2, x1, lsl #3]
        add x0, x0, x3
    4:  movz x2, #:prel_g0:5f
        adr x3, 4b
        add x2, x2, x3
        ldr w3, [x2]
        add x0, x0, x3
        ret
        .section .text.near, "ax", %progbits
    5:  .word 77
        """,
        expected=tuple(3000 + 200 + word + 77 for word in words),
    ),
    relocation(
        TABLE,
        "R_AARCH64_ADR_GOT_PAGE, R_AARCH64_LD64_GOT_LO12_NC",
        """
        stp x29, x30, [sp, #-16]!
        neg x0, x1
        adrp x3, :got:labs
        ldr x3, [x3, :got_lo12:labs]
        blr x3
        address_by_table value
        plus_there
        ldp x29, x30, [sp], #16
        ret
        """,
    ),
    relocation(
        TABLE,
        "R_AARCH64_LD64_GOTPAGE_LO15",
        """
        adrp x3, _GLOBAL_OFFSET_TABLE_
        ldr x2, [x3, #:gotpage_lo15:value]
        ldr x0, [x2]
        ldr x2, [x3, #:gotpage_lo15:words]
        add x2, x2, x1, lsl #3
        plus_there
        ret
        """,
    ),
    relocation(
        TABLE,
        "R_AARCH64_GOT_LD_PREL19",
        """
        ldr x2, :got:value
        ldr x0, [x2]
        ldr x2, :got:words
        add x2, x2, x1, lsl #3
        plus_there
        ret
        """,
    ),
    relocation(
        TABLE,
        "R_AARCH64_MOVW_GOTOFF_G0, R_AARCH64_MOVW_GOTOFF_G1, R_AARCH64_LD64_GOTOFF_LO15",
        """
        adrp x3, _GLOBAL_OFFSET_TABLE_
        add x3, x3, :lo12:_GLOBAL_OFFSET_TABLE_
        movz x2, #:gotoff_g1:value
        movk x2, #:gotoff_g0_nc:value
        ldr x2, [x3, x2]
        ldr x0, [x2]
        ldr x2, [x3, #:gotoff_lo15:words]
        add x2, x2, x1, lsl #3
        plus_there
        ret
        """,
        toolchains=("gcc",),
    ),
]
