# SPDX-License-Identifier: Apache-2.0
"""Kinds that an object's sections make: names, flags, sizes, initializers, what `ld -r` leaves."""

from __future__ import annotations

from assembly import RUN, by_processor
from kind import Kind, assembler, partially_linked

STRINGS = """
#include <string.h>
const char* text_of(int64_t n) {
  return n ? "a string that two objects share" : "and one that is %s";
}
"""

# More than the 65,279 that a symbol's own 16 bits can tell apart.
COUNT = 66_000
MANY = (
    RUN
    + "body: address table\n"
    + by_processor(
        f"""
    movl ${COUNT}, %edx
    xorl %eax, %eax
1:  movq (%rcx), %rsi
    addq (%rsi), %rax
    addq $8, %rcx
    decl %edx
    jnz 1b
    ret
""",
        f"""
    ldr x4, ={COUNT}
    mov x0, #0
1:  ldr x3, [x2], #8
    ldr x3, [x3]
    add x0, x0, x3
    subs x4, x4, #1
    b.ne 1b
    ret
""",
    )
    + "".join(f'.section .data.d{n}, "aw"\nd{n}: .quad {n}\n' for n in range(COUNT))
    + '.section .data.rel.ro, "aw"\ntable:\n'
    + "".join(f".quad d{n}\n" for n in range(COUNT))
)

KINDS = [
    assembler("66,000 sections (`SHN_XINDEX`)", (MANY,), arguments=(0,)),
    assembler(
        "two sections of one name: `.text` of different flags",
        (
            RUN
            + """
    body: do second
        plus third_value
        ret
        .section .text, "axFLAG", %progbits, unique, 1
    second: number 40
        plus_argument
        ret
        .section .text, "axG", %progbits, group, comdat
        .globl in_group
    in_group: ret
        .data
    third_value: .quad 1000
    """.replace("FLAG", by_processor("l", "R")),
        ),
        toolchains=("clang",),
    ),
    assembler(
        "two sections of one name: `.rodata`, plain and mergeable",
        (
            RUN
            + """
    body: take plain
        plus merged
        plus text
        ret
        .section .rodata, "a", %progbits, unique, 1
    plain: .quad 7
        .section .rodata, "aM", %progbits, 8, unique, 2
    merged: .quad 100
        .section .rodata, "aMS", %progbits, 1, unique, 3
    text: .string "a text"
        .byte 0
    """,
        ),
    ),
    assembler(
        "two sections of one name: read-only and writable",
        (
            RUN
            + """
    body: take second
        plus_argument
        put second
        number 0
        plus __start_numbers
        plus __start_numbers+8
        plus __start_numbers+16
        plus __stop_numbers-8
        ret
        .section numbers, "a", %progbits, unique, 1
        .quad 1, 2
        .section numbers, "aw", %progbits, unique, 2
    second: .quad 30
        .hidden __start_numbers, __stop_numbers
    """,
        ),
    ),
    assembler(
        "two sections of one name: code and data",
        (
            RUN
            + """
    body: take sum
        plus_argument
        put sum
        do get
        ret
        .section mixed, "ax", %progbits, unique, 1
    get: take sum
        ret
        .section mixed, "aw", %progbits, unique, 2
    sum: .quad 30
    """,
        ),
    ),
    assembler(
        "a section that is both writable and executable",
        (
            RUN
            + """
        .section .changing, "awx", %progbits
    """
            + by_processor(
                """
    body: movl $7, patched+1(%rip)
    patched: movl $5, %eax
        ret
    """,
                """
    body: adr x2, patched
        adr x3, other
        ldr w3, [x3]
        str w3, [x2]
        dc cvau, x2
        dsb ish
        ic ivau, x2
        dsb ish
        isb
    patched: mov w0, #5
        ret
    other: mov w0, #7
    """,
            ),
        ),
        refused="both writable and executable",
    ),
    Kind(
        "sections of one name and different flags in two objects",
        (
            """
            __attribute__((section("numbers"))) static const int64_t mine[] = {1, 2, 3};
            const int64_t* first(void) { return mine; }
            extern int64_t* second(void);
            extern const int64_t __start_numbers[] __attribute__((visibility("hidden")));
            extern const int64_t __stop_numbers[] __attribute__((visibility("hidden")));
            EXPORT(run) {
              int64_t total = *first() + ++*second();
              for (const int64_t* n = __start_numbers; n < __stop_numbers; ++n) total += *n;
              RETURN(total * 100 + (__stop_numbers - __start_numbers));
            }
            """,
            """
            __attribute__((section("numbers"))) static int64_t mine[] = {40, 50};
            int64_t* second(void) { return mine; }
            """,
        ),
    ),
    Kind(
        "`__start_NAME` and `__stop_NAME`",
        (
            """
            typedef int64_t (*Function)(int64_t);
            #define REGISTER(name) \\
              __attribute__((section("registry"), used)) static Function name##_entry = name
            static int64_t one(int64_t n) { return n + 1; }
            static int64_t two(int64_t n) { return n * 2; }
            REGISTER(one);
            REGISTER(two);
            extern Function __start_registry[], __stop_registry[];
            EXPORT(run) {
              int64_t n = INT(0);
              for (Function* f = __start_registry; f != __stop_registry; ++f) n = (*f)(n) + n;
              RETURN(n * 10 + (__stop_registry - __start_registry));
            }
            """,
        ),
    ),
    Kind(
        "constructors and destructors with priorities",
        (
            """
            static int64_t order;
            __attribute__((constructor)) static void last(void) { order = order * 10 + 3; }
            __attribute__((constructor(200))) static void second(void) { order = order * 10 + 2; }
            __attribute__((constructor(101))) static void first(void) { order = order * 10 + 1; }
            __attribute__((destructor)) static void gone(void) { order = 0; }
            EXPORT(run) { RETURN(order + INT(0)); }
            """,
        ),
    ),
    assembler(
        "`.ctors` and `.dtors`",
        (
            RUN
            + r"""
    body: take order
        ret
        .irp each, 1, 2, 3
    append_\each:
        number \each
        .rept 10
        plus order
        .endr
        put order
        ret
        .endr
        .section .ctors, "aw", %progbits
        .quad append_3, append_2
        .section .ctors.65435, "aw", %progbits
        .quad append_1
        .section .dtors, "aw", %progbits
        .quad append_1
        .bss
        .balign 8
    order: .skip 8
    """,
        ),
    ),
    Kind(
        "a `.bss` of 1 GiB",
        (
            """
            static char zeros[1 << 30];
            char small[16] = "initialized";
            EXPORT(run) {
              int64_t at = INT(0) << 28;
              zeros[at] += 3;
              RETURN(zeros[at] + zeros[at + 1] + small[INT(0)] + ++zeros[sizeof zeros - 1]);
            }
            """,
        ),
        levels=("-O2",),
    ),
    Kind(
        "alignment of 4 KiB and of 2 MiB",
        (
            """
            __attribute__((aligned(4096))) static char page[100] = {1};
            __attribute__((aligned(1 << 21))) static char large[100];
            __attribute__((aligned(1024), noinline)) int64_t code(int64_t n) { return n + page[0]; }
            EXPORT(run) {
              uintptr_t bits = (uintptr_t)page | ((uintptr_t)&code & 1023);
              RETURN(code(INT(0)) + (bits & 4095) + ((uintptr_t)large & 0xfff) + ++large[5]);
            }
            """,
        ),
    ),
    Kind(
        "an empty object beside another",
        ("\n", "EXPORT(run) { RETURN(INT(0) + 1); }\n"),
    ),
    Kind(
        "strings that several objects share",
        (
            STRINGS,
            """
        #include <stdio.h>
        #include <string.h>
        const char* text_of(int64_t n);
        EXPORT(run) {
          char out[100];
          const char* mine = "a string that two objects share";
          snprintf(out, sizeof out, text_of(0), mine + INT(0));
          RETURN(strlen(out) * 100 + strcmp(text_of(1), mine));
        }
        """,
        ),
    ),
    Kind(
        "`ld -r` of several objects, C",
        (
            STRINGS + "int64_t common_one; static int64_t data[] = {1, 2, 3};\n"
            "int64_t* data_of(int64_t n) { common_one += n; return &data[n % 3]; }\n"
            "__attribute__((constructor)) static void begin(void) { common_one = 5; }\n",
            """
            #include <string.h>
            const char* text_of(int64_t n);
            int64_t* data_of(int64_t n);
            extern int64_t common_one;
            static int64_t data[] = {10, 20, 30};
            __attribute__((constructor)) static void begin(void) { common_one *= 7; }
            EXPORT(run) {
              int64_t n = INT(0);
              RETURN(strlen(text_of(n)) + ++*data_of(n) + data[n % 3] + common_one * 100);
            }
            """,
        ),
        step=partially_linked,
    ),
    Kind(
        "`ld -r` of several objects, C++",
        (
            "#include <stdexcept>\n#include <vector>\n"
            "inline int64_t shared_inline() { static int64_t n = 5; return ++n; }\n"
            'int64_t thrown(int64_t n) { if (n > 1) throw std::out_of_range("n");\n'
            "  return std::vector<int64_t>(n + 3, 2).size() + shared_inline(); }\n",
            "#include <stdexcept>\n#include <vector>\n"
            "inline int64_t shared_inline() { static int64_t n = 5; return ++n; }\n"
            "int64_t thrown(int64_t n);\n"
            "EXPORT(run) { try { RETURN(thrown(INT(0)) + shared_inline()); }\n"
            "  catch (const std::out_of_range& e) { RETURN(e.what()[0]); } }\n",
        ),
        language="c++",
        levels=("-O2",),
        step=partially_linked,
    ),
]
