# SPDX-License-Identifier: Apache-2.0
"""A function in assembler that calls another one, and how unwind tables describe it."""

from __future__ import annotations

from dataclasses import dataclass

from processors import PROCESSOR, X86_64


@dataclass(frozen=True)
class Frames:
    """What differs between processors.

    Attributes
    ----------
    enter, call, leave
        The function's code: making its frame, calling its first argument with the second, and
        returning from the frame.
    return_address
        The number of the column for the address that it returns to.
    at_entry, entered
        Instructions of the table that hold at the function's beginning and after `enter`.
    cfi_entered, cfi_left
        What assemblers are told after `enter` and `leave`.
    section_type
        Which type clang gives the section.
    five
        The code of an exported function that returns 5.
    """

    enter: str
    call: str
    leave: str
    return_address: int
    at_entry: str
    entered: str
    cfi_entered: str
    cfi_left: str
    section_type: str
    five: str


_X86_64 = Frames(
    enter="subq $8, %rsp",
    call="movq %rdi, %rax\n    movq %rsi, %rdi\n    call *%rax",
    leave="addq $8, %rsp",
    return_address=16,
    at_entry="0x0c, 7, 8, 0x90, 1",
    entered="0x0e, 16",
    cfi_entered=".cfi_def_cfa_offset 16",
    cfi_left=".cfi_def_cfa_offset 8",
    section_type="@0x70000001",
    five="movq $1, (%rcx)\n    movq $5, 8(%rcx)\n    xorl %eax, %eax\n    ret",
)
_AARCH64 = Frames(
    enter="stp x29, x30, [sp, #-16]!",
    call="mov x2, x0\n    mov x0, x1\n    blr x2",
    leave="ldp x29, x30, [sp], #16",
    return_address=30,
    at_entry="0x0c, 31, 0",
    entered="0x0e, 16, 0x9d, 2, 0x9e, 1",
    cfi_entered=".cfi_def_cfa_offset 16\n .cfi_offset 29, -16\n .cfi_offset 30, -8",
    cfi_left=".cfi_def_cfa_offset 0\n .cfi_restore 29\n .cfi_restore 30",
    section_type="@progbits",
    five="mov x1, #1\n    mov x2, #5\n    stp x1, x2, [x3]\n    mov w0, #0\n    ret",
)
FRAMES = _X86_64 if PROCESSOR is X86_64 else _AARCH64
