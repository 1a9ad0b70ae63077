# SPDX-License-Identifier: Apache-2.0
"""Objects in several versions, for the tests of reload."""

from __future__ import annotations

from pathlib import Path

from compilation import Compiler

# Traces its number when it is loaded, and the negative of it when it is unloaded. `wait` writes to
# flag[0], and returns when flag[1] is written.
VERSION = """
#include "safe_call.h"
#include "trace.h"
#include <unistd.h>
__attribute__((constructor)) static void init(void) { trace(NUMBER); }
__attribute__((destructor)) static void fini(void) { trace(-NUMBER); }
int64_t number(void) { return NUMBER; }
EXPORT(number) { RETURN(NUMBER); }
EXPORT(wait) {
  volatile int64_t* flag = (int64_t*)INT(0);
  flag[0] = NUMBER;
  while (!flag[1]) usleep(500);
  RETURN(NUMBER);
}
EXPORT(call) {
  TVMFFIAny result = {0};
  if (TVMFFIFunctionCall(args[0].v_obj, 0, 0, &result)) return -1;
  RETURN(NUMBER * 10 + result.v_int64);
}
#if NUMBER == 1
EXPORT(first_only) { RETURN(NUMBER); }
#endif
"""


def version(compile: Compiler, number: int, more: str = "") -> Path:
    source = VERSION + more
    return compile(source, "-O2", "-fPIC", f"-DNUMBER={number}", name=f"version{number}")
