# SPDX-License-Identifier: Apache-2.0
"""What kinds in assembler have in common: the function ``run``, and words that each processor has.

``run`` calls ``body`` with the argument in the register `argument`, and takes what that leaves in
`result`: %rdi and %rax, x1 and x0. Kinds that are about sections and symbols are written in the
macros below; what takes more is written for each processor.
"""

from __future__ import annotations

from processors import PROCESSOR, X86_64

_X86_64 = """
    .macro address symbol  # pointer = &symbol
    leaq \\symbol(%rip), %rcx
    .endm
    .macro address_by_table symbol
    movq \\symbol@GOTPCREL(%rip), %rcx
    .endm
    .macro take symbol  # result = *symbol
    movq \\symbol(%rip), %rax
    .endm
    .macro take_there  # result = *pointer
    movq (%rcx), %rax
    .endm
    .macro plus symbol  # result += *symbol
    addq \\symbol(%rip), %rax
    .endm
    .macro plus_there
    addq (%rcx), %rax
    .endm
    .macro plus_pointer
    addq %rcx, %rax
    .endm
    .macro plus_argument
    addq %rdi, %rax
    .endm
    .macro put symbol  # *symbol = result
    movq %rax, \\symbol(%rip)
    .endm
    .macro number value  # result = value
    movl $\\value, %eax
    .endm
    .macro do function
    call \\function
    .endm
    .macro go function
    jmp \\function
    .endm
    .text
    .globl __tvm_ffi_run
    .type __tvm_ffi_run, @function
__tvm_ffi_run:
    pushq %rbx
    pushq %r12
    pushq %r15
    movq %rcx, %rbx
    movq 8(%rsi), %rdi
    call body
    movl $1, (%rbx)
    movl $0, 4(%rbx)
    movq %rax, 8(%rbx)
    xorl %eax, %eax
    popq %r15
    popq %r12
    popq %rbx
    ret
    .size __tvm_ffi_run, . - __tvm_ffi_run
    .section .note.GNU-stack, "", @progbits
    .text
"""
# `pointer` is x2. `do` keeps the return address of the function that it stands in on the stack.
_AARCH64 = """
    .macro address symbol
    adrp x2, \\symbol
    add x2, x2, :lo12:\\symbol
    .endm
    .macro address_by_table symbol
    adrp x2, :got:\\symbol
    ldr x2, [x2, :got_lo12:\\symbol]
    .endm
    .macro take symbol
    address \\symbol
    ldr x0, [x2]
    .endm
    .macro take_there
    ldr x0, [x2]
    .endm
    .macro plus symbol
    address \\symbol
    plus_there
    .endm
    .macro plus_there
    ldr x3, [x2]
    add x0, x0, x3
    .endm
    .macro plus_pointer
    add x0, x0, x2
    .endm
    .macro plus_argument
    add x0, x0, x1
    .endm
    .macro put symbol
    address \\symbol
    str x0, [x2]
    .endm
    .macro number value
    mov x0, #\\value
    .endm
    .macro do function
    stp x29, x30, [sp, #-16]!
    bl \\function
    ldp x29, x30, [sp], #16
    .endm
    .macro go function
    b \\function
    .endm
    .text
    .globl __tvm_ffi_run
    .type __tvm_ffi_run, %function
__tvm_ffi_run:
    stp x29, x30, [sp, #-32]!
    str x19, [sp, #16]
    mov x19, x3
    ldr x1, [x1, #8]
    bl body
    mov x1, #1
    stp x1, x0, [x19]
    mov w0, #0
    ldr x19, [sp, #16]
    ldp x29, x30, [sp], #32
    ret
    .size __tvm_ffi_run, . - __tvm_ffi_run
    .section .note.GNU-stack, "", %progbits
    .text
"""


def by_processor(x86_64: str, aarch64: str) -> str:
    """Return the one for the processor that the tests run on."""
    return x86_64 if PROCESSOR is X86_64 else aarch64


RUN = by_processor(_X86_64, _AARCH64)
