# SPDX-License-Identifier: Apache-2.0
"""C compiled with -fno-pic: what it uses of the C library has addresses of 32 bits."""

from __future__ import annotations

import itertools

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain
from position_dependent import PIC, addresses_of_32_bits, every_way, fixed, results

pytestmark = [pytest.mark.matrix, addresses_of_32_bits]

PRINTS = """
#include <stdio.h>
#include "safe_call.h"
EXPORT(run) {
  int written = fprintf(stderr, "to stderr %d\\n", (int)INT(0));
  written += fputs("to stdout\\n", stdout) >= 0;
  written += fputs("more\\n", stderr) >= 0;
  fflush(stdout);
  fflush(stderr);
  RETURN(written * 10 + (stdin != 0) + (stderr != stdout) * 2);
}
EXPORT(streams) { RETURN(INT(0) ? (intptr_t)stderr : (intptr_t)stdout); }
"""


@every_way
def test_standard_streams(
    session: tol.Session,
    compile: Compiler,
    capfd: pytest.CaptureFixture[str],
    toolchain: Toolchain,
    level: str,
) -> None:
    dlopened = compile.dlopen(compile(PRINTS, *PIC))
    expected = results(dlopened)
    printed = capfd.readouterr()
    assert printed.out == "to stdout\n" * 4
    loaded = session.load(compile(PRINTS, *fixed(level, toolchain), toolchain=toolchain))
    assert results(loaded) == expected
    assert capfd.readouterr() == printed
    for which in (0, 1):
        assert loaded["streams"](which) == dlopened.streams(which)


SORTS = """
#include <stdlib.h>
#include <string.h>
#include "safe_call.h"
static char words[4][8] = {"c", "a", "d", "b"};
typedef int (*Compare)(const void*, const void*);
static Compare const compares[] = {(Compare)strcmp, (Compare)strcoll, (Compare)strcmp};
static size_t (*length)(const char*) = strlen;
EXPORT(run) {
  char sorted[4][8];
  int64_t n = INT(0);
  memcpy(sorted, words, sizeof words);
  qsort(sorted, 4, 8, n == 3 ? (Compare)strcmp : compares[n]);
  char* found = bsearch("c", sorted, 4, 8, (Compare)strcmp);
  RETURN(sorted[0][0] * 1000 + (found - sorted[0]) + length(sorted[n]) * 100000);
}
"""
TABLES = """
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "safe_call.h"
typedef int (*Test)(int);
static const Test tests[] = {isalpha, isdigit, toupper, abs};
static double (*const functions[])(double) = {sqrt, floor, fabs, cbrt};
struct { void* (*allocate)(size_t); void (*free)(void*); pid_t (*pid)(void); } table = {
    malloc, free, getpid};
EXPORT(run) {
  int64_t n = INT(0);
  Test test = tests[n];
  char* memory = table.allocate(100);
  memset(memory, 7, 100);
  int64_t result = (test('7') != 0) * 1000 + memory[99] + (table.pid() == getpid()) * 100;
  table.free(memory);
  RETURN(result + (int64_t)(functions[n](6.25) * 100) * 10000);
}
"""
EQUAL = """
#include <string.h>
#include <stdlib.h>
#include <stdio.h>
#include "safe_call.h"
typedef int (*Compare)(const char*, const char*);
Compare in_data = strcmp;
static Compare const in_constant = &strcmp;
Compare elsewhere(void);
void* elsewhere_free(void);
int is_stderr(FILE*);
__attribute__((noinline)) static int same(void* a, void* b) { return a == b; }
EXPORT(run) {
  int64_t result = same((void*)strcmp, (void*)in_data);
  result += 2 * same((void*)in_constant, (void*)&strcmp);
  result += 4 * same((void*)elsewhere(), (void*)strcmp) + 8 * same((void*)free, elsewhere_free());
  result += 16 * (in_data == in_constant) + 32 * (elsewhere() == in_data);
  result += 64 * is_stderr(stderr) + 128 * same((void*)malloc, (void*)free);
  RETURN(result + (strcmp("a", "b") < 0) * 256 + (in_data("a", "a") == 0) * 512);
}
"""
EQUAL_ELSEWHERE = """
#include <string.h>
#include <stdlib.h>
#include <stdio.h>
typedef int (*Compare)(const char*, const char*);
static Compare volatile kept = strcmp;
Compare elsewhere(void) { return kept; }
void* elsewhere_free(void) { return (void*)free; }
int is_stderr(FILE* file) { return file == stderr; }
"""
CONSTANT = """
#include <netinet/in.h>
#include <string.h>
#include "safe_call.h"
extern const struct in6_addr in6addr_loopback, in6addr_any;
static const struct in6_addr* const table[] = {&in6addr_any, &in6addr_loopback};
EXPORT(run) {
  const unsigned char* bytes = (const unsigned char*)table[INT(0) & 1];
  RETURN(bytes[15] + memcmp(&in6addr_any, table[0], 16) * 10 +
         (memcmp(&in6addr_loopback, &in6addr_any, 16) != 0) * 100);
}
"""


@every_way
@pytest.mark.parametrize("source", [SORTS, TABLES, CONSTANT], ids=["sorts", "tables", "constant"])
def test_functions_and_constants_of_libraries(
    session: tol.Session, compile: Compiler, source: str, toolchain: Toolchain, level: str
) -> None:
    loaded = session.load(compile(source, *fixed(level, toolchain), toolchain=toolchain))
    assert results(loaded) == results(compile.dlopen(compile(source, *PIC)))


@every_way
def test_a_functions_address_is_one(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, level: str
) -> None:
    expected = results(compile.dlopen(compile(EQUAL, *PIC), compile(EQUAL_ELSEWHERE, *PIC)))
    assert expected == [1 + 2 + 4 + 8 + 16 + 32 + 64 + 256 + 512] * 4
    for flags in itertools.product((fixed(level, toolchain), (level, "-fPIC")), repeat=2):
        objects = [
            compile(source, *each, toolchain=toolchain)
            for source, each in zip((EQUAL, EQUAL_ELSEWHERE), flags, strict=True)
        ]
        assert results(session.load(objects)) == expected
        assert results(session.load(objects[::-1])) == expected
