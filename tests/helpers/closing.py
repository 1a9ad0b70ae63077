# SPDX-License-Identifier: Apache-2.0
"""A script with two dylibs whose calls wait, for the tests of what `close` waits for."""

from __future__ import annotations

from compilation import Compiler
from conftest import RunScript

CODE = """
#include "safe_call.h"
#include <unistd.h>
EXPORT(add) { RETURN(INT(0) + INT(1)); }
EXPORT(wait) {
  volatile int64_t* flag = (int64_t*)INT(0);
  flag[0] = 1;
  while (!flag[1]) usleep(1000);
  RETURN(flag[1]);
}
EXPORT(call) {
  TVMFFIAny result = {0};
  if (TVMFFIFunctionCall(args[0].v_obj, 0, 0, &result)) return -1;
  RETURN(5);
}
"""
PREAMBLE = """
import ctypes, gc, os, signal, sys, threading, time
import tvm_ffi
import tvm_ffi_object_loader as tol

path = sys.argv[1]
session = tol.Session("session")
a, b = session.load(path, name="a"), session.load(path, name="b")
flag = (ctypes.c_int64 * 2)()
results = []


def start(work):
    def run():
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)  # where the script fails, it ends
    thread.start()
    return thread


def spin(condition):
    while not condition():
        time.sleep(0.001)


def names_of(values):
    return sorted(type(value).__name__ for value in values)
"""


def run(run_script: RunScript, compile: Compiler, script: str, *arguments: object) -> str:
    return run_script(PREAMBLE + script, compile(CODE), *arguments, timeout=60)
