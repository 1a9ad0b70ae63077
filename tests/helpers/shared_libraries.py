# SPDX-License-Identifier: Apache-2.0
"""Two libraries of the same symbols, an object that uses them, and where they are mapped."""

from __future__ import annotations

from pathlib import Path

import pytest

from compilation import Compiler

LIBRARY = """
#include "safe_call.h"
#include "trace.h"
int64_t answer = NUMBER;
static int64_t one(void) { return 1000 + NUMBER; }
static void* choose(void) { return (void*)one; }
int64_t chosen(void) __attribute__((ifunc("choose")));
int64_t number(void) { return NUMBER; }
__attribute__((weak)) int64_t weakly(void) { return 2000 + NUMBER; }
__attribute__((visibility("hidden"))) int64_t hidden(void) { return 1; }
__attribute__((constructor)) static void init(void) { trace(NUMBER); }
__attribute__((destructor)) static void fini(void) { trace(-NUMBER); }
EXPORT(of_library) { RETURN(NUMBER); }
"""
USER = """
#include "safe_call.h"
extern int64_t answer;
int64_t chosen(void);
int64_t number(void);
int64_t weakly(void);
int64_t absent(void) __attribute__((weak));
int64_t own(void) { return number(); }
EXPORT(use) { RETURN(answer + chosen() + number() + weakly() + (absent ? 1 : 0)); }
EXPORT(set) { RETURN(answer = INT(0)); }
EXPORT(at) { RETURN(&answer); }
"""


@pytest.fixture
def libraries(compile: Compiler) -> list[Path]:
    """Return two libraries that define the same symbols, of this test alone."""
    return [
        compile.link(compile(LIBRARY, "-O2", "-fPIC", f"-DNUMBER={number}")) for number in (1, 2)
    ]


@pytest.fixture
def user(compile: Compiler) -> Path:
    return compile(USER, name="user")


def is_mapped(path: Path) -> bool:
    # To be run: tools that look symbols up map files, too.
    lines = Path("/proc/self/maps").read_text().splitlines()
    return any(str(path) in line and "x" in line.split()[1] for line in lines)


def total(number: int) -> int:
    return number + (1000 + number) + number + (2000 + number)
