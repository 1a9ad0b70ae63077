# SPDX-License-Identifier: Apache-2.0
"""Kinds that a compiler's flags make: models of code, debug information, instrumentation."""

from __future__ import annotations

import functools

from kind import Kind, objcopied, partially_linked
from processors import AARCH64, X86_64

# What code does with memory, functions and constants of its own and of the process.
PROGRAM = """
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t table[6] = {3, 1, 4, 1, 5, 9};
int64_t zeros[1000];
static int64_t counter = 7;
static const char* const words[] = {"zero", "one", "two", "three"};
static int64_t twice(int64_t n) { return 2 * n; }
static int64_t square(int64_t n) { return n * n; }
int64_t (*const functions[])(int64_t) = {twice, square, labs};
int64_t* const inside = &table[4];
__attribute__((noinline)) int64_t sum(const int64_t* numbers, int count) {
  int64_t total = 0;
  for (int i = 0; i < count; ++i) total += numbers[i];
  return total;
}
static int compare(const void* a, const void* b) {
  return (*(const int64_t*)a > *(const int64_t*)b) - (*(const int64_t*)a < *(const int64_t*)b);
}
__attribute__((noinline)) static double chosen(int64_t n) {
  switch (n) {
    case 0: return 0.5;
    case 1: return sqrt(1764.0);
    case 2: return (double)strlen(words[2]);
    case 3: return strtod("3.25", 0);
    default: return -1.5;
  }
}
EXPORT(run) {
  int64_t n = INT(0), sorted[6];
  char text[32];
  memcpy(sorted, table, sizeof sorted);
  qsort(sorted, 6, sizeof *sorted, compare);
  zeros[n] += snprintf(text, sizeof text, "%s %d", words[n], (int)n);
  errno = (int)n + 5;
  RETURN(functions[n % 3](n - 9) + sum(table, 6) + sum(zeros, 1000) + *inside + ++counter +
         (int64_t)(chosen(n) * 100) + sorted[n] * 1000 + errno + text[0]);
}
"""

EXCEPTIONS = """
#include <stdexcept>
#include <string>
#include <vector>
struct Counted {
  static int alive;
  Counted() { ++alive; }
  ~Counted() { --alive; }
};
int Counted::alive = 0;
struct Own { int64_t value; };
__attribute__((noinline)) int64_t fail(int64_t n) {
  Counted counted;
  std::string text = "a text that is too long for its object to hold " + std::to_string(n);
  if (n == 0) return 5;
  if (n == 1) throw std::runtime_error(text);
  if (n == 2) throw Own{n + 40};
  std::vector<int> few(2);
  return few.at(n);
}
EXPORT(run) {
  int64_t result;
  try {
    result = fail(INT(0));
  } catch (const Own& own) {
    result = own.value;
  } catch (const std::runtime_error& error) {
    result = std::string(error.what()).size();
  } catch (const std::exception&) {
    result = -1;
  }
  RETURN(result * 100 + Counted::alive);
}
"""

MANY = (
    "".join(
        f"int64_t data_{n} = {n};\nint64_t f_{n}(void) {{ return data_{n}; }}\n"
        for n in range(10_000)
    )
    + "int64_t (*const all[])(void) = {"
    + ", ".join(f"f_{n}" for n in range(10_000))
    + "};\nEXPORT(run) {\n  int64_t total = 0;\n"
    + "  for (int i = 0; i < 10000; ++i) total += all[i]() * (i % 3 + INT(0));\n"
    + "  RETURN(total);\n}\n"
)

# Operations of every size and order.
ATOMICS = """
#define OF(type, order) \\
  { \\
    static type number = 5; \\
    type old = 3; \\
    total += __atomic_fetch_add(&number, 4, order); \\
    total += __atomic_fetch_sub(&number, 1, order); \\
    total = total * 10 + __atomic_fetch_or(&number, 3, order); \\
    total = total * 10 + __atomic_fetch_and(&number, 29, order); \\
    total = total * 10 + __atomic_fetch_xor(&number, 6, order); \\
    total = total * 10 + __atomic_exchange_n(&number, (type)n, order); \\
    total += __atomic_compare_exchange_n(&number, &old, 9, 0, order, __ATOMIC_RELAXED); \\
    total = total * 10 + number + old; \\
  }
#define OF_ALL(order) \\
  OF(unsigned char, order) OF(unsigned short, order) OF(unsigned, order) OF(unsigned long, order)
EXPORT(run) {
  int64_t n = INT(0), total = 0;
  OF_ALL(__ATOMIC_RELAXED)
  OF_ALL(__ATOMIC_ACQUIRE)
  OF_ALL(__ATOMIC_RELEASE)
  OF_ALL(__ATOMIC_ACQ_REL)
  OF_ALL(__ATOMIC_SEQ_CST)
  RETURN(total & 0xffffffffffff);
}
"""

program = functools.partial(Kind, sources=(PROGRAM,))

KINDS = [
    program("`-fPIC`"),
    program("`-fPIE`", flags=("-fPIE",), reference_flags=("-fPIC",)),
    Kind(
        "`-fPIE`",
        (EXCEPTIONS,),
        ("-fPIE",),
        "C++",
        language="c++",
        levels=("-O1",),
        reference_flags=("-fPIC",),
    ),
    program("`-fno-plt`", flags=("-fPIC", "-fno-plt")),
    program("`-mcmodel=tiny`", flags=("-fPIC", "-mcmodel=tiny")),
    program("`-mcmodel=medium`", flags=("-fPIC", "-mcmodel=medium", "-mlarge-data-threshold=8")),
    program("`-mcmodel=large`", flags=("-fPIC", "-mcmodel=large")),
    program(
        "`-fno-pic -mcmodel=large`",
        flags=("-fno-pic", "-mcmodel=large"),
        link_flags=("-Wl,-z,notext",),
        processors=(X86_64,),
    ),
    program(
        "`-fno-pic -mcmodel=large`",
        flags=("-fno-pic", "-mcmodel=large"),
        reference_flags=("-fPIC",),
        processors=(AARCH64,),
    ),
    program("`-fno-pic`", flags=("-fno-pic",), reference_flags=("-fPIC",)),
    program("`-g`", flags=("-fPIC", "-g3")),
    program("`-g -gz`", flags=("-fPIC", "-g", "-gz")),
    program("`-g -gsplit-dwarf`", flags=("-fPIC", "-g", "-gdwarf-4"), levels=("-O1",)),
    program(
        "`-ffunction-sections -fdata-sections`",
        flags=("-fPIC", "-ffunction-sections", "-fdata-sections"),
    ),
    Kind(
        "`-ffunction-sections`, 10,000 functions",
        (MANY,),
        flags=("-fPIC", "-ffunction-sections"),
        levels=("-O0",),
        toolchains=("clang",),
    ),
    program("`-flto -ffat-lto-objects`", flags=("-fPIC", "-flto", "-ffat-lto-objects")),
    program("`-fstack-protector-all`", flags=("-fPIC", "-fstack-protector-all")),
    program("`-fcf-protection`", flags=("-fPIC", X86_64.branch_protection), processors=(X86_64,)),
    program(
        "`-mbranch-protection=standard`",
        flags=("-fPIC", AARCH64.branch_protection),
        processors=(AARCH64,),
    ),
    program("`-pg`", flags=("-fPIC", "-pg")),
    program("`-fpatchable-function-entry`", flags=("-fPIC", "-fpatchable-function-entry=8,4")),
    program(
        "`-fsanitize=undefined`, trapping",
        flags=("-fPIC", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"),
        toolchains=("gcc",),
    ),
    program(
        "`-fsanitize=undefined`, trapping",
        flags=("-fPIC", "-fsanitize=undefined", "-fsanitize-trap=all"),
        toolchains=("clang",),
        case="clang",
    ),
    program(
        "`-fno-asynchronous-unwind-tables`", flags=("-fPIC", "-fno-asynchronous-unwind-tables")
    ),
    program("`-march=native`", flags=("-fPIC", "-march=native"), processors=(X86_64,)),
    program("`-march=armv8-a+lse`", flags=("-fPIC", "-march=armv8-a+lse"), processors=(AARCH64,)),
    Kind(
        "`-moutline-atomics`",
        (ATOMICS,),
        ("-fPIC", "-moutline-atomics"),
        processors=(AARCH64,),
    ),
    Kind(
        "`-mno-outline-atomics`",
        (ATOMICS,),
        ("-fPIC", "-mno-outline-atomics"),
        processors=(AARCH64,),
    ),
    program("`ld -r` of one object", step=partially_linked),
    program("stripped with `strip --strip-unneeded`", step=objcopied("--strip-unneeded")),
    program(
        "`objcopy --compress-debug-sections`",
        flags=("-fPIC", "-g"),
        step=objcopied("--compress-debug-sections"),
    ),
    Kind("C++ exceptions", (EXCEPTIONS,), language="c++", levels=("-O0", "-O2")),
    Kind(
        "C++ exceptions",
        (EXCEPTIONS,),
        ("-fPIC", "-mcmodel=large"),
        "`-mcmodel=large`",
        language="c++",
        levels=("-O0", "-O2"),
    ),
    Kind("C++ exceptions", (EXCEPTIONS,), ("-fPIC", "-fno-plt"), "`-fno-plt`", "c++", ("-O2",)),
    Kind(
        "C++ exceptions",
        (EXCEPTIONS,),
        case="`ld -r`",
        language="c++",
        levels=("-O0", "-O2"),
        step=partially_linked,
    ),
    Kind(
        "`-fopenmp`",
        (
            """
            #include <omp.h>
            EXPORT(run) {
              int64_t total = 0;
            #pragma omp parallel for reduction(+ : total) num_threads(3)
              for (int i = 0; i < 1000; ++i) total += i * INT(0);
              RETURN(total + omp_in_parallel());
            }
            """,
        ),
        ("-fPIC", "-fopenmp"),
        toolchains=("gcc",),
        link_flags=("-fopenmp",),
        preload=("libgomp.so.1",),
    ),
]
