# SPDX-License-Identifier: Apache-2.0
"""One kind for each type of relocation that compilers and assemblers emit for x86-64.

The types of thread-local storage are with the kinds of thread_local.
"""

from __future__ import annotations

from assembly import RUN
from kind import Kind, assembler
from processors import X86_64, Processor

DATA = """
    .data
    .balign 8
    .globl value, words
    .hidden value, words
    .type value, @object
    .size value, 8
value: .quad 4100
    .type words, @object
    .size words, 32
words: .quad 10, 200, 3000, 0
"""
DEFINITIONS = """
    .globl small, byte
    .set small, 0x1234
    .set byte, 0x56
    .section .note.GNU-stack, "", @progbits
"""


def relocation(
    title: str,
    types: str,
    body: str,
    *more: str,
    toolchains: tuple[str, ...] = ("gcc", "clang"),
    expected: tuple[int, ...] | None = None,
    processor: Processor = X86_64,
) -> Kind:
    """Give a kind whose function is written for one processor; `types` is what it is about."""
    sources = (RUN + DATA + "    .text\nbody:\n" + body, *more)
    return assembler(
        f"relocations {title}",
        sources,
        case=types,
        toolchains=toolchains,
        expected=expected,
        processors=(processor,),
    )


ABSOLUTE = "to an address"
RELATIVE = "relative to the code"
TABLE = "through the global offset table"
SIZE = "for a symbol's size"

KINDS = [
    relocation(
        ABSOLUTE,
        "R_X86_64_64",
        """
        movq pointer(%rip), %rax
        movq (%rax), %rax
        movq function(%rip), %rcx
        negq %rdi
        pushq %rax
        call *%rcx
        popq %rcx
        addq %rcx, %rax
        movabsq $words+8, %rcx
        addq (%rcx), %rax
        ret
        .data
    pointer: .quad words+16
    function: .quad labs
        """,
    ),
    relocation(
        ABSOLUTE,
        "R_X86_64_32, R_X86_64_32S to data of the object",
        """
        movl $words, %ecx
        movq 8(%rcx), %rax
        movq $value, %rcx
        addq (%rcx), %rax
        addq words(,%rdi,8), %rax
        movl long(%rip), %ecx
        addq (%rcx), %rax
        ret
        .data
    long: .long words+16
        .quad 0
        """,
        expected=tuple(200 + 4100 + 3000 + n for n in (10, 200, 3000, 0)),
    ),
    relocation(
        ABSOLUTE,
        "R_X86_64_32, R_X86_64_32S to numbers",
        """
        movl $small, %eax
        movq $small, %rcx
        addq %rcx, %rax
        movl long(%rip), %ecx
        addq %rcx, %rax
        ret
        .data
    long: .long small+5
        """,
        DEFINITIONS,
        expected=(3 * 0x1234 + 5,) * 4,
    ),
    relocation(
        ABSOLUTE,
        "R_X86_64_16, R_X86_64_8",
        """
        movzwl word(%rip), %eax
        movzbl single(%rip), %ecx
        addq %rcx, %rax
        ret
        .data
    word: .word small+1
    single: .byte byte+2
        """,
        DEFINITIONS,
        expected=(0x1234 + 1 + 0x56 + 2,) * 4,
    ),
    relocation(
        ABSOLUTE,
        "symbols that are numbers",
        """
        movq whole(%rip), %rax
        addq %rdi, %rax
        movl part(%rip), %ecx
        addq %rcx, %rax
        ret
        .set number, 0x123456789a
        .data
    whole: .quad 0
        .reloc whole, R_X86_64_64, number+6
    part: .long 0
        .reloc part, R_X86_64_32, 17
        """,
        expected=tuple(0x123456789A + 6 + 17 + n for n in range(4)),
    ),
    relocation(
        RELATIVE,
        "R_X86_64_PC32, R_X86_64_PLT32",
        """
        movq words+8(%rip), %rax
        subq %rax, %rdi
        call labs@PLT
        call local@PLT
        jmp local
        .section .text.local, "ax", @progbits
        .globl local
        .hidden local
        .type local, @function
    local: addq $7, %rax
        ret
        """,
    ),
    relocation(
        RELATIVE,
        "R_X86_64_PC64",
        """
        leaq distance(%rip), %rcx
        addq (%rcx), %rcx
        movq (%rcx), %rax
        ret
        .section .rodata, "a", @progbits
        .balign 8
    distance: .quad words+16 - .
        """,
    ),
    relocation(
        RELATIVE,
        "R_X86_64_PC16, R_X86_64_PC8",
        """
        movswq near(%rip), %rax
        leaq near(%rip), %rcx
        addq %rax, %rcx
        movzbl (%rcx), %eax
        movsbq nearer(%rip), %rdx
        leaq nearer(%rip), %rcx
        movzbl (%rcx,%rdx), %ecx
        shlq $8, %rcx
        addq %rcx, %rax
        ret
        .section .text.near, "ax", @progbits
    near: .word there - .
    nearer: .byte there + 1 - .
        .section .text.there, "ax", @progbits
    there: .byte 0x21, 0x43
        """,
    ),
    relocation(
        TABLE,
        "R_X86_64_GOTPCREL",
        """
        pushq value@GOTPCREL(%rip)
        popq %rcx
        movq (%rcx), %rax
        leaq slot(%rip), %rcx
        movslq (%rcx), %rdx
        movq (%rcx,%rdx), %rcx
        addq 8(%rcx), %rax
        cmpq $12, value@GOTPCREL(%rip)
        jb 1f
        incq %rax
    1:  ret
        .data
    slot: .long words@GOTPCREL
        """,
    ),
    relocation(
        TABLE,
        "R_X86_64_GOTPCRELX",
        """
        negq %rdi
        call *labs@GOTPCREL(%rip)
        movl value@GOTPCREL(%rip), %ecx
        leaq value(%rip), %rdx
        cmpl value@GOTPCREL(%rip), %edx
        jne 1f
        addq $100, %rax
    1:  movq %rax, %rdi
        negq %rdi
        jmp *labs@GOTPCREL(%rip)
        """,
    ),
    relocation(
        TABLE,
        "R_X86_64_REX_GOTPCRELX",
        """
        movq value@GOTPCREL(%rip), %r8
        movq (%r8), %rax
        movq labs@GOTPCREL(%rip), %rcx
        leaq value(%rip), %rdx
        xorl %ecx, %ecx
        addq value@GOTPCREL(%rip), %rcx
        subq %rdx, %rcx
        addq %rcx, %rax
        testq %rdx, value@GOTPCREL(%rip)
        jz 1f
        incq %rax
    1:  cmpq value@GOTPCREL(%rip), %rdx
        jne 1f
        addq $10, %rax
    1:  orq value@GOTPCREL(%rip), %rdx
        subq %r8, %rdx
        addq %rdx, %rax
        ret
        """,
    ),
    relocation(
        TABLE,
        "R_X86_64_GOTPCRELX, other addends",
        """
        leaq slot(%rip), %rcx
        movslq (%rcx), %rdx
        movq (%rcx,%rdx), %rcx
        movq 16(%rcx), %rax
        ret
        .data
        .long 0
    slot: .long 0
        .reloc slot, R_X86_64_REX_GOTPCRELX, words
        """,
    ),
    relocation(
        TABLE,
        "R_X86_64_GOTPC32, R_X86_64_GOTOFF64",
        """
        leaq _GLOBAL_OFFSET_TABLE_(%rip), %rcx
        movabsq $words@GOTOFF, %rax
        movq 16(%rax,%rcx), %rax
        ret
        """,
    ),
    relocation(
        TABLE,
        "R_X86_64_GOTPC64, R_X86_64_GOT64, R_X86_64_PLTOFF64",
        """
    1:  leaq 1b(%rip), %r15
        movabsq $_GLOBAL_OFFSET_TABLE_-1b, %rcx
        addq %rcx, %r15
        negq %rdi
        movabsq $labs@PLTOFF, %rax
        addq %r15, %rax
        call *%rax
        movabsq $value@GOT, %rcx
        movq (%r15,%rcx), %rcx
        addq (%rcx), %rax
        movabsq $local@PLTOFF, %rcx
        addq %r15, %rcx
        jmp *%rcx
    local: addq $3, %rax
        ret
        """,
    ),
    relocation(
        TABLE,
        "R_X86_64_GOTPCREL64",
        """
        leaq slot(%rip), %rcx
        movq (%rcx), %rdx
        movq (%rcx,%rdx), %rcx
        movq 8(%rcx), %rax
        ret
        .data
    slot: .quad 0
        .reloc slot, R_X86_64_GOTPCREL64, words
        """,
    ),
    relocation(
        SIZE,
        "R_X86_64_SIZE32, R_X86_64_SIZE64",
        """
        movl $words@SIZE, %eax
        movabsq $value@SIZE + 100, %rcx
        addq %rcx, %rax
        ret
        """,
    ),
]
