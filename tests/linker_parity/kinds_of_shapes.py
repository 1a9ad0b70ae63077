# SPDX-License-Identifier: Apache-2.0
"""Kinds of objects that a linker has rules of its own for."""

from __future__ import annotations

from assembly import by_processor
from kind import C_HEADER, Kind

_THROWS = """
#include <stdexcept>
#include "safe_call.h"
__attribute__((noinline)) int64_t thrower(int64_t n) {
  if (n > 1) throw std::runtime_error("thrown");
  return n;
}
EXPORT(run) {
  try {
    RETURN(thrower(INT(0)));
  } catch (const std::exception&) {
    RETURN(40 + INT(0));
  }
}
"""

KINDS = [
    Kind(
        "compact relocations (CREL)",
        (_THROWS,),
        ("-fPIC", "-Wa,--crel,--allow-experimental-crel"),
        language="c++",
        toolchains=("clang",),
        reference_flags=("-fPIC",),
    ),
    Kind(
        "an executable stack (nested functions)",
        (
            C_HEADER
            + """
            __attribute__((noinline)) static int64_t apply(int64_t (*f)(int64_t), int64_t n) {
              __asm__ volatile("" : "+r"(f));
              return f(n);
            }
            EXPORT(run) {
              int64_t k = INT(0) * 3;
              int64_t inner(int64_t n) { return n + k; }
              RETURN(apply(inner, 100));
            }
            """,
        ),
        toolchains=("gcc",),
        refused="executable stack",
    ),
    Kind(
        "code in `.init` and `.fini`",
        (
            C_HEADER
            + """
            static int64_t number = 1;
            __attribute__((visibility("hidden"), used)) void set_number(void) { number += 41; }
            __asm__(".section .init,\\"ax\\",%progbits\\n CALL set_number\\n .text");
            EXPORT(run) { RETURN(number + INT(0)); }
            """.replace("CALL", by_processor("call", "bl")),
        ),
    ),
    Kind(
        "an end mark inside `.eh_frame`",
        (
            _THROWS.replace("EXPORT(run) {", "int64_t caught(int64_t n) {")
            .replace("RETURN(thrower(INT(0)));", "return thrower(n);")
            .replace("RETURN(40 + INT(0));", "return 40 + n;"),
            '#include "safe_call.h"\n__asm__(".section .eh_frame, \\"a\\", %progbits\\n'
            '.long 0\\n.text");\nint64_t caught(int64_t);\n'
            "EXPORT(run) { RETURN(caught(INT(0))); }\n",
        ),
        language="c++",
        # GNU ld would leave out the table to look records up in.
        link_flags=("-fuse-ld=bfd",),
        reference_flags=("-fPIC",),
        expected=(0, 1, 42, 43),
    ),
    Kind(
        "symbols that a linker defines (`_end`, `__bss_start`, …)",
        (
            C_HEADER
            + """
            extern char _end[] __attribute__((visibility("hidden")));
            extern char __bss_start[] __attribute__((visibility("hidden")));
            static int64_t zeros[4];
            EXPORT(run) {
              zeros[INT(0)] = 5;
              RETURN((char*)&zeros[3] < _end && (char*)zeros >= __bss_start);
            }
            """,
        ),
    ),
    Kind(
        "`.gnu.linkonce` sections in two objects",
        (
            f'__asm__(".section .gnu.linkonce.t.once, \\"ax\\", %progbits\\n.globl once\\n'
            f'once: {by_processor("movl $7, %eax", "mov w0, #7")}\\n ret\\n.text");\n'
            "int other(void);\n"
            + C_HEADER
            + "int once(void);\nEXPORT(run) { RETURN(once() * 10 + other() + INT(0)); }\n",
            f'__asm__(".section .gnu.linkonce.t.once, \\"ax\\", %progbits\\n.globl once\\n'
            f'once: {by_processor("movl $8, %eax", "mov w0, #8")}\\n ret\\n.text");\n'
            "int once(void);\nint other(void) { return once(); }\n",
        ),
    ),
]
