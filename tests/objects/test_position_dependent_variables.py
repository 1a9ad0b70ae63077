# SPDX-License-Identifier: Apache-2.0
"""Variables of libraries that change, read by code compiled with -fno-pic, or a load refused."""

from __future__ import annotations

import ctypes

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain
from conftest import RunScript
from position_dependent import PIC, addresses_of_32_bits, every_way, fixed, one_way_each, results

pytestmark = [pytest.mark.matrix, addresses_of_32_bits]

CHANGING = """
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "safe_call.h"
static int own;
int* volatile fixed = &own;
EXPORT(get) {
  fixed = &own;
  RETURN(EXPRESSION);
}
EXPORT(set) {
  fixed = &own;
  VARIABLE = (__typeof__(VARIABLE))INT(0);
  RETURN(0);
}
EXPORT(where) {
  fixed = &own;
  RETURN((intptr_t)&VARIABLE);
}
"""
VARIABLES = {
    "environ": "intptr_t",
    "optind": "int",
    "opterr": "int",
    "optarg": "intptr_t",
    "timezone": "long",
    "daylight": "int",
    "signgam": "int",
    "program_invocation_name": "intptr_t",
}
CTYPES = {"int": "c_int", "long": "c_long", "intptr_t": "c_ssize_t"}
CHANGE = """
import ctypes
import sys

import tvm_ffi_object_loader as tol

path, name, of = sys.argv[1:]
# The one that the C library itself uses, not what an executable may have copied.
library = ctypes.CDLL("libm.so.6" if name == "signgam" else "libc.so.6")
real = getattr(ctypes, of).in_dll(library, name)
try:
    dylib = tol.Session().load(path)
except tol.LinkError as error:
    assert name in str(error), error
    assert "-fPIC" in str(error), error
    assert path in str(error), error
    print("refused")
    sys.exit()
assert dylib["get"]() == real.value
was = real.value
real.value = 1234
assert dylib["get"]() == 1234, "stale"
dylib["set"](4321)
assert real.value == 4321, "of its own"
assert dylib["where"]() == ctypes.addressof(real)
real.value = was
assert dylib["get"]() == was
print("right")
"""


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("level", ["-O0", "-O2"])
@one_way_each
def test_variables_that_change(
    compile: Compiler, run_script: RunScript, toolchain: Toolchain, level: str, name: str
) -> None:
    of = VARIABLES[name]
    definitions = (f"-DVARIABLE={name}", f"-DEXPRESSION=({of}){name}")
    path = compile(CHANGING, *fixed(level, toolchain), *definitions, toolchain=toolchain)
    said = run_script(CHANGE, path, name, CTYPES[of])
    assert said in ("right\n", "refused\n")


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_that_change_for_other_code(
    compile: Compiler, run_script: RunScript, name: str
) -> None:
    of = VARIABLES[name]
    path = compile(CHANGING, *PIC, f"-DVARIABLE={name}", f"-DEXPRESSION=({of}){name}")
    assert run_script(CHANGE, path, name, CTYPES[of]) == "right\n"


PUTENV = """
import ctypes
import os
import sys

import tvm_ffi_object_loader as tol

environ = ctypes.c_void_p.in_dll(ctypes.CDLL("libc.so.6"), "environ")
try:
    dylib = tol.Session().load(sys.argv[1])
except tol.LinkError as error:
    assert "environ" in str(error), error
    assert "-fPIC" in str(error), error
    print("refused")
    sys.exit()
count = dylib["count"]()
assert count == len(os.environ)
before = environ.value
for number in range(300):
    os.putenv(f"A_NEW_VARIABLE_{number}", "x" * 100)
assert environ.value != before
assert dylib["count"]() == count + 300, "stale"
assert dylib["has"]() == 1
ctypes.CDLL(None).clearenv()
assert dylib["count"]() == 0, "stale"
print("right")
"""
COUNTS = """
#include <string.h>
#include "safe_call.h"
extern char** environ;
static int own;
int* volatile fixed = &own;
EXPORT(count) {
  fixed = &own;
  int64_t n = 0;
  if (!environ) RETURN(0);
  while (environ[n]) ++n;
  RETURN(n);
}
EXPORT(has) {
  for (char** each = environ; each && *each; ++each) {
    if (strncmp(*each, "A_NEW_VARIABLE_299=", 19) == 0) RETURN(1);
  }
  RETURN(0);
}
"""


@every_way
def test_the_environment_that_grows(
    compile: Compiler, run_script: RunScript, toolchain: Toolchain, level: str
) -> None:
    path = compile(COUNTS, *fixed(level, toolchain), toolchain=toolchain)
    assert run_script(PUTENV, path) in ("right\n", "refused\n")
    # The script itself is right.
    assert run_script(PUTENV, compile(COUNTS, *PIC)) == "right\n"


GETOPT = """
#include <getopt.h>
#include "safe_call.h"
static int own;
int* volatile fixed = &own;
EXPORT(run) {
  char* words[] = {"name", "-a", "-b", "value", "rest", 0};
  fixed = &own;
  optind = 1;
  int count = 0;
  while (getopt(5, words, "ab:") != -1) ++count;
  RETURN(optind * 10 + count);
}
"""


@every_way
def test_options_are_parsed_or_refused(
    compile: Compiler, session: tol.Session, toolchain: Toolchain, level: str
) -> None:
    path = compile(GETOPT, *fixed(level, toolchain), toolchain=toolchain)
    expected = results(compile.dlopen(compile(GETOPT, *PIC)))
    assert expected == [42] * 4
    said = ""
    try:
        dylib = session.load(path)
    except tol.LinkError as error:
        said = str(error)
    if said:
        assert "optind" in said
        assert "-fPIC" in said
    else:
        assert results(dylib) == expected


STREAM = """
#include <iomanip>
#include <iostream>
#include "safe_call.h"
static int own;
int* volatile fixed = &own;
EXPORT(get) {
  fixed = &own;
  RETURN(std::cout.precision());
}
EXPORT(set) {
  fixed = &own;
  std::cout << std::setprecision(INT(0));
  RETURN(0);
}
EXPORT(print) {
  fixed = &own;
  std::cout << "printed " << INT(0) << std::endl;
  RETURN(std::cout.good());
}
"""
OF_THE_PROCESS = """
#include <iomanip>
#include <iostream>
extern "C" long get_precision() { return std::cout.precision(); }
extern "C" void set_precision(long n) { std::cout.precision(n); }
"""


@every_way
def test_a_stream_that_changes(
    compile: Compiler,
    session: tol.Session,
    capfd: pytest.CaptureFixture[str],
    toolchain: Toolchain,
    level: str,
) -> None:
    library = ctypes.CDLL(str(compile.link(compile.cxx(OF_THE_PROCESS))))
    path = compile.cxx(STREAM, *fixed(level, toolchain), toolchain=toolchain)
    said = ""
    try:
        dylib = session.load(path)
    except tol.LinkError as error:
        said = str(error)
    if said:
        assert "cout" in said
        assert "-fPIC" in said
        return
    library.set_precision(13)
    assert dylib["get"]() == 13
    dylib["set"](9)
    assert library.get_precision() == 9
    library.set_precision(6)
    assert dylib["print"](5) == 1
    assert capfd.readouterr().out == "printed 5\n"


OF_A_LIBRARY = """
int counter = 5;
int* count(void) { ++counter; return &counter; }
const int constant = 8;
int (*callback)(int);
int call(int n) { return callback ? callback(n) : -1; }
"""
USES_A_LIBRARY = """
#include "safe_call.h"
extern int counter;
extern const int constant;
extern int (*callback)(int);
int* count(void);
int call(int n);
static int own(int n) { return n + 1000; }
int (*volatile fixed)(int) = own;
EXPORT(run) {
  fixed = own;
  callback = own;
  int same = count() == &counter;
  counter += 10;
  int value = *count();
  RETURN(value * 10 + same + constant * 10000 + (int64_t)call(INT(0)) * 1000000);
}
"""


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("how", ["beside", "link order", "in the process"])
@one_way_each
def test_variables_of_a_library(
    compile: Compiler,
    session: tol.Session,
    run_script: RunScript,
    toolchain: Toolchain,
    how: str,
    level: str,
) -> None:
    path = compile(USES_A_LIBRARY, *fixed(level, toolchain), toolchain=toolchain)
    library = compile.link(compile(OF_A_LIBRARY))
    script = """
import ctypes
import sys

import tvm_ffi_object_loader as tol

path, library, how = sys.argv[1:]
session = tol.Session()
try:
    if how == "beside":
        dylib = session.load([path, library])
    elif how == "link order":
        dylib = session.load(path, link_order=[library])
    else:
        kept = ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
        dylib = session.load(path)
except tol.LinkError as error:
    assert any(name in str(error) for name in ("counter", "constant", "callback")), error
    assert "-fPIC" in str(error), error
    print("refused")
    sys.exit()
print(*(dylib["run"](n) for n in range(2)))
"""
    dlopened = compile.dlopen(compile(USES_A_LIBRARY, *PIC), library)
    right = f"{dlopened.run(0)} {dlopened.run(1)}\n"
    assert run_script(script, compile(USES_A_LIBRARY, *PIC), library, how) == right
    assert run_script(script, path, library, how) in (right, "refused\n")
