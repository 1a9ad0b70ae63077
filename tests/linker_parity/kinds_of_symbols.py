# SPDX-License-Identifier: Apache-2.0
"""Kinds that an object's symbols make: binding, visibility, type, version, common symbols."""

from __future__ import annotations

from assembly import RUN, by_processor
from kind import Kind, assembler

KINDS = [
    Kind(
        "weak definitions and references",
        (
            """
            __attribute__((weak)) int64_t overridden(int64_t n) { return n; }
            __attribute__((weak)) int64_t kept(int64_t n) { return n + 1; }
            extern int64_t nowhere(int64_t) __attribute__((weak));
            extern int nowhere_data __attribute__((weak));
            extern unsigned long strlen(const char*) __attribute__((weak));
            EXPORT(run) {
              int64_t n = INT(0);
              RETURN(overridden(n) * 100 + kept(n) * 10 + (nowhere ? nowhere(n) : 5) +
                     (&nowhere_data ? 7 : 0) + (strlen ? 1000 : 0));
            }
            """,
            "int64_t overridden(int64_t n) { return n + 5; }\n",
        ),
    ),
    Kind(
        "hidden, internal and protected symbols",
        (
            """
            #define VISIBLE(how) __attribute__((visibility(how)))
            VISIBLE("hidden") int64_t hidden_data = 3;
            VISIBLE("internal") int64_t internal_data = 40;
            VISIBLE("protected") int64_t protected_data = 500;
            VISIBLE("internal") int64_t internal_function(int64_t n) { return n + internal_data; }
            VISIBLE("protected") int64_t protected_function(int64_t n) {
              return n + protected_data;
            }
            VISIBLE("hidden") int64_t elsewhere(int64_t n);
            VISIBLE("internal") int64_t elsewhere_too(int64_t n);
            EXPORT(run) {
              int64_t n = INT(0);
              RETURN(internal_function(n) + protected_function(n) + elsewhere(n) + hidden_data +
                     elsewhere_too(n));
            }
            """,
            """
            __attribute__((visibility("hidden"))) int64_t elsewhere(int64_t n) { return n * 1000; }
            __attribute__((visibility("internal"))) int64_t elsewhere_too(int64_t n) { return ~n; }
            """,
        ),
    ),
    Kind(
        "aliases",
        (
            """
            int64_t real(int64_t n) { return n * 3; }
            int64_t data[] = {4, 5, 6, 7};
            int64_t alias(int64_t n) __attribute__((alias("real")));
            int64_t weak_alias(int64_t n) __attribute__((weak, alias("real")));
            static int64_t local_alias(int64_t n) __attribute__((alias("real")));
            extern int64_t same_data[4] __attribute__((alias("data")));
            EXPORT(run) {
              int64_t n = INT(0);
              same_data[n] += 10;
              RETURN(alias(n) + weak_alias(n) + local_alias(n) + data[n]);
            }
            """,
        ),
    ),
    Kind(
        "common symbols",
        (
            """
            int64_t shared_counter, own_numbers[100];
            char shared_text[10];
            int64_t count(void);
            EXPORT(run) {
              shared_text[9] = 1;
              own_numbers[INT(0)] = 5;
              RETURN(count() + count() * 10 + own_numbers[0] * 100 + shared_text[9]);
            }
            """,
            """
            int64_t shared_counter;
            char shared_text[200];
            int64_t count(void) { shared_text[199] = 1; return ++shared_counter + shared_text[9]; }
            """,
        ),
        flags=("-fPIC", "-fcommon"),
    ),
    Kind(
        "common symbols",
        (
            "int64_t value; int64_t get(void);\nEXPORT(run) { RETURN(value + get() + INT(0)); }\n",
            "int64_t value = 30; int64_t get(void) { return ++value; }\n",
        ),
        flags=("-fPIC", "-fcommon"),
        case="and a definition",
    ),
    Kind(
        "COMDAT groups in several objects",
        tuple(
            f"""
            template <typename T> struct Counter {{ static T value; }};
            template <typename T> T Counter<T>::value = 10;
            inline int64_t next() {{ static int64_t n = 100; return ++n; }}
            struct Base {{ virtual int64_t get() {{ return next(); }} virtual ~Base() = default; }};
            template <typename T> T twice(T n) {{ return 2 * n + next(); }}
            {body}
            """
            for body in (
                "int64_t other(int64_t n) { Counter<int64_t>::value += n; Base b; Base* p = &b;"
                " return twice(n) + p->get(); }",
                "int64_t other(int64_t n); EXPORT(run) { int64_t n = INT(0); Base b; Base* p = &b;"
                " RETURN(other(n) + twice(n) + Counter<int64_t>::value + p->get() * 1000); }",
            )
        ),
        language="c++",
        levels=("-O2",),
    ),
    Kind(
        "unique symbols (`STB_GNU_UNIQUE`)",
        (
            "template <typename T> struct S { static T v; }; template <typename T> T S<T>::v = 3;\n"
            "inline int64_t& local() { static int64_t n = 4; return n; }\n"
            "EXPORT(run) { RETURN(++S<int64_t>::v * 100 + ++local() + INT(0)); }\n",
        ),
        flags=("-fPIC", "-fgnu-unique"),
        language="c++",
        levels=("-O2",),
        toolchains=("gcc",),
    ),
    assembler(
        "functions and data without a type (`STT_NOTYPE`)",
        (
            RUN
            + """
        .globl body, datum
    body: address_by_table datum
        take_there
        go local_part
        .data
    datum: .quad 41
        .text
    local_part: plus_argument
        ret
    """,
        ),
    ),
    assembler(
        "absolute symbols (`SHN_ABS`)",
        (
            RUN
            + """
        .set local_absolute, 77
    body: take wide_pointer
        address_by_table visible
        plus_pointer
        plus absolute_pointer
        plus pointer
        ret
        .data
    pointer: .quad visible + 2
    wide_pointer: .quad wide
    absolute_pointer: .quad local_absolute
    """,
            """
        .globl visible, wide
        .set visible, 0x1234
        .set wide, 0x123456789abcdef
        .section .note.GNU-stack, "", %progbits
    """,
        ),
    ),
    assembler(
        "section symbols with addends",
        (
            RUN
            + """
    body: take .data+8
        plus table+16
        plus .rodata+8
        plus .rodata+16
        address inner
        LOAD
        plus_there
        ret
        .data
    table: .quad 1, 20, 300
    inner: .quad .rodata + 16
        .section .rodata, "a", %progbits
        .quad 0, 4000, 50000
    """.replace("LOAD", by_processor("movq (%rcx), %rcx", "ldr x2, [x2]")),
        ),
    ),
    assembler(
        "versioned references (`.symver`)",
        (
            RUN
            + """
    """
            + by_processor(
                """
        .symver old_memcpy, memcpy@GLIBC_2.2.5
        .symver new_memcpy, memcpy@GLIBC_2.14
    body: subq $24, %rsp
        leaq source(%rip), %rsi
        movq %rsp, %rdi
        movl $8, %edx
        call old_memcpy@PLT
        leaq 8(%rsp), %rdi
        leaq source(%rip), %rsi
        movl $8, %edx
        call new_memcpy@PLT
        movq (%rsp), %rax
        addq 8(%rsp), %rax
        addq $24, %rsp
        ret
    """,
                """
        .symver the_memcpy, memcpy@GLIBC_2.17
    body: stp x29, x30, [sp, #-32]!
        adrp x1, source
        add x1, x1, :lo12:source
        add x0, sp, #16
        mov x2, #8
        bl the_memcpy
        ldr x0, [sp, #16]
        ldp x29, x30, [sp], #32
        ret
    """,
            )
            + """
        .section .rodata, "a", %progbits
    source: .quad 2100
    """,
        ),
        link_flags=("-lc",),
    ),
    Kind(
        "names that no C source can have",
        (
            """
            int64_t odd(int64_t n) __asm__("name.with$odd.\\303\\244.characters");
            int64_t odd(int64_t n) { return n + 9; }
            EXPORT(run) { RETURN(odd(INT(0))); }
            """,
        ),
    ),
    Kind(
        "static variables and functions of one name in two objects",
        (
            "static int64_t n = 3; static int64_t f(void) { return ++n; } int64_t other(void);\n"
            "EXPORT(run) { RETURN(f() * 100 + other() + INT(0)); }\n",
            "static int64_t n = 50; static int64_t f(void) { return ++n; }\n"
            "int64_t other(void) { return f(); }\n",
        ),
    ),
]
