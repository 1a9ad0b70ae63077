# SPDX-License-Identifier: Apache-2.0
"""Objects compiled with -fno-pic: addresses of 32 bits, also of what libraries define."""

from __future__ import annotations

import ctypes
import itertools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import GCC, TOOLCHAINS, Compiler, Toolchain
from conftest import RunScript
from processors import X86_64, only_on

pytestmark = [
    pytest.mark.matrix,
    only_on(X86_64, "code that depends on its position has addresses of 32 bits"),
]

LEVELS = ("-O0", "-O1", "-O2", "-O3")
PIC = ("-O1", "-fPIC")
ARGUMENTS = (0, 1, 2, 3)
every_way = pytest.mark.parametrize(
    ("toolchain", "level"),
    [
        pytest.param(toolchain, level, id=f"{toolchain.name} {level}")
        for toolchain, level in itertools.product(TOOLCHAINS, LEVELS)
    ],
)
one_way_each = pytest.mark.parametrize(
    "toolchain", TOOLCHAINS, ids=lambda toolchain: toolchain.name
)


def fixed(level: str, toolchain: Toolchain) -> tuple[str, ...]:
    """Return the flags for code that depends on its position."""
    return (level, "-fno-pic", "-no-pie") if toolchain is GCC else (level, "-fno-pic")


def types_of(path: Path) -> set[str]:
    """Return the types of the object's relocations."""
    said = subprocess.run(["readelf", "-rW", path], check=True, capture_output=True, text=True)
    return set(re.findall(r"R_X86_64_\w+", said.stdout))


def results(module: tol.Dylib | tvm_ffi.Module, name: str = "run") -> list[int]:
    return [module.get_function(name)(argument) for argument in ARGUMENTS]


# The README's own example, and errors of TVM-FFI.

TYPED = """
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

int64_t Add(int64_t a, int64_t b) { return a + b; }

TVM_FFI_DLL_EXPORT_TYPED_FUNC(add, Add);
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(add, "Add two integers.");

using namespace tvm::ffi;

void Fail(int64_t n) { TVM_FFI_THROW(ValueError) << "no good: " << n; }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(fail, Fail);

int64_t Caught(int64_t n) {
  try {
    Fail(n);
  } catch (const Error& error) {
    return error.message().size() * 100 + error.kind().size();
  }
  return -1;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(caught, Caught);

int64_t CaughtAsStandard(int64_t n) {
  try {
    Fail(n);
  } catch (const std::exception& error) {
    return std::string(error.what()).find("no good") != std::string::npos;
  }
  return -1;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(caught_as_standard, CaughtAsStandard);

Array<String> Texts(String text, int64_t n) { return Array<String>(n, text + "!"); }
TVM_FFI_DLL_EXPORT_TYPED_FUNC(texts, Texts);

int64_t Sum(Map<String, int64_t> numbers) {
  int64_t sum = 0;
  for (const auto& [name, n] : numbers) sum += n;
  return sum;
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(sum, Sum);

Function Adder(int64_t n) {
  return Function::FromTyped([n](int64_t m) { return n + m; });
}
TVM_FFI_DLL_EXPORT_TYPED_FUNC(adder, Adder);
"""


def outcome(function: Callable[..., object], *arguments: object) -> object:
    """Return the result in a form to compare, or the error."""
    try:
        result = function(*arguments)
    except Exception as error:
        return type(error), str(error)
    return list(result) if isinstance(result, tvm_ffi.Array) else result


@every_way
def test_typed_functions(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, level: str
) -> None:
    metadata = "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1"
    path = compile.cxx(TYPED, *fixed(level, toolchain), metadata, toolchain=toolchain)
    assert types_of(path) & {"R_X86_64_32", "R_X86_64_32S"}
    dlopened = compile.dlopen(compile.cxx(TYPED, *PIC, metadata))
    module = session.load_module(path)
    for name, *arguments in (
        ("add", 1, 2),
        ("add", 1),
        ("add", "one", 2),
        ("fail", 5),
        ("caught", 7),
        ("caught_as_standard", 7),
        ("texts", "a text that is too long to be a value", 3),
        ("sum", {"one": 1, "two": 20}),
        ("sum", 5),
    ):
        ours = outcome(module.get_function(name), *arguments)
        theirs = outcome(dlopened.get_function(name), *arguments)
        assert ours == theirs
    assert module.add(1, 2) == 3
    assert module.adder(40)(2) == dlopened.adder(40)(2) == 42
    assert module.get_function_doc("add") == dlopened.get_function_doc("add")
    assert module.get_function_metadata("add") == dlopened.get_function_metadata("add")
    with pytest.raises(ValueError, match="no good: 5"):
        module.fail(5)


# Exceptions and classes of libstdc++.

STANDARD = """
#include <exception>
#include <iterator>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <typeinfo>
#include <vector>
#include "safe_call.h"

struct Own : std::exception {
  int64_t value;
  explicit Own(int64_t n) : value(n) {}
  const char* what() const noexcept override { return "an exception of its own"; }
};
struct Derived : std::runtime_error {
  explicit Derived(int64_t n) : std::runtime_error("derived " + std::to_string(n)) {}
};
struct Shape {
  virtual ~Shape() = default;
  virtual int64_t area() const = 0;
};
struct Square : virtual Shape {
  int64_t side = 3;
  int64_t area() const override { return side * side; }
};
struct Twice : virtual Shape {
  int64_t area() const override { return 2; }
};
struct Both : Square, Twice {
  int64_t area() const override { return Square::area() * Twice::area(); }
};
static std::map<std::string, int64_t> numbers = {
    {"one", 1}, {"two", 20}, {"a name that is too long for its object to hold", 300}};
static const std::vector<std::string> words = {"zero", "one", "two", "three"};

__attribute__((noinline)) int64_t fail(int64_t n) {
  std::string text = "a text that is too long for its object to hold";
  switch (n) {
    case 0: throw std::runtime_error(text);
    case 1: throw Own(7);
    case 2: return std::vector<int64_t>(2).at(n);
    case 3: throw Derived(n);
    case 4: throw n;
    case 5: throw text;
    case 6: throw std::bad_alloc();
    case 7: throw std::make_unique<int64_t>(n);
    case 8: return std::stoi("no number");
    case 9: { Shape* none = nullptr; return typeid(*none).name()[0]; }
    case 10: { Square square; Shape& shape = square; return dynamic_cast<Both&>(shape).side; }
    default: return n;
  }
}
EXPORT(run) {
  try {
    RETURN(fail(INT(0)));
  } catch (const Own& error) {
    RETURN(error.value + std::string(error.what()).size());
  } catch (const std::out_of_range& error) {
    RETURN(1000 + error.what()[0]);
  } catch (const std::bad_typeid& error) {
    RETURN(1500);
  } catch (const std::bad_cast& error) {
    RETURN(1600);
  } catch (const std::invalid_argument& error) {
    RETURN(1700);
  } catch (const std::runtime_error& error) {
    RETURN(2000 + std::string(error.what()).size());
  } catch (const std::exception& error) {
    RETURN(3000 + error.what()[0]);
  } catch (int64_t n) {
    RETURN(4000 + n);
  } catch (const std::string& text) {
    RETURN(5000 + text.size());
  } catch (...) {
    RETURN(6000);
  }
}
EXPORT(shapes) {
  Both both;
  Shape& shape = both;
  const std::exception& error = Own(1);
  int64_t result = shape.area() * 100;
  result += dynamic_cast<Twice*>(&shape) != nullptr;
  result += (dynamic_cast<const Derived*>(&error) == nullptr) * 2;
  result += (typeid(shape) == typeid(Both)) * 4;
  result += (typeid(error) == typeid(Own)) * 8;
  RETURN(result + std::string(typeid(Own).name()).size() * 1000);
}
EXPORT(texts) {
  std::ostringstream out;
  std::set<std::string> sorted(words.begin(), words.end());
  for (const auto& word : sorted) out << word << ' ' << word.size() << ',';
  out << numbers["two"] << numbers["a name that is too long for its object to hold"];
  numbers["new " + std::to_string(INT(0))] = 5;
  std::string text = out.str();
  int64_t sum = numbers.size();
  for (char c : text) sum = sum * 31 % 1000003 + c;
  RETURN(sum);
}
EXPORT(rethrown) {
  std::exception_ptr kept;
  try {
    fail(INT(0));
  } catch (...) {
    kept = std::current_exception();
  }
  try {
    if (kept) std::rethrow_exception(kept);
  } catch (const std::exception& error) {
    RETURN(1);
  } catch (...) {
    RETURN(2);
  }
  RETURN(3);
}
"""


@every_way
def test_exceptions_and_classes_of_the_standard_library(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, level: str
) -> None:
    path = compile.cxx(STANDARD, *fixed(level, toolchain), toolchain=toolchain)
    assert types_of(path) & {"R_X86_64_32", "R_X86_64_32S"}
    loaded = session.load(path)
    dlopened = compile.dlopen(compile.cxx(STANDARD, *PIC))
    for name in ("run", "rethrown"):
        ours = [loaded[name](n) for n in range(12)]
        theirs = [dlopened[name](n) for n in range(12)]
        assert ours == theirs
    assert len({loaded["run"](n) for n in range(12)}) == 12
    for name in ("shapes", "texts", "texts"):
        assert loaded[name](1) == dlopened[name](1)


# Variables, functions and addresses of the C library.

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


# Loads one after the other, which refer to each other's variables with 32 bits.

DEFINER = """
int foo = 4;
int fn(void) { return 7; }
int numbers[5] = {1, 2, 3, 4, 5};
int zeros[100];
const int constant = 9;
"""
ABSOLUTE_DEFINER = """
int foo = 4;
static int own = 2;
int* volatile kept = &own;
int* pointer = &foo;
int fn(void) { kept = &own; return 5 + *kept; }
int numbers[5] = {1, 2, 3, 4, 5};
int zeros[100];
const int constant = 9;
"""
# It names nothing but what can be reached relative to the code.
READER = """
#include "safe_call.h"
extern int foo, numbers[], zeros[];
extern const int constant;
int fn(void);
EXPORT(run) {
  foo = 3 + (int)INT(0);
  zeros[2] += 1;
  RETURN(foo + fn() * 10 + numbers[3] * 100 + zeros[2] * 10000 + constant * 1000000);
}
EXPORT(foo) { RETURN(foo); }
EXPORT(where) { RETURN((intptr_t)&foo); }
EXPORT(where_fn) { RETURN((intptr_t)fn); }
"""
INDEXING_READER = """
#include "safe_call.h"
extern int foo, numbers[], zeros[];
extern const int constant;
int fn(void);
EXPORT(run) {
  foo = 3 + (int)INT(0);
  zeros[INT(0)] += 1;
  RETURN(foo + fn() * 10 + numbers[INT(0)] * 100 + zeros[0] * 10000 + constant * 1000000);
}
EXPORT(foo) { RETURN(foo); }
EXPORT(where) { RETURN((intptr_t)&foo); }
EXPORT(where_fn) { RETURN((intptr_t)fn); }
"""
ABSOLUTE_READER = """
#include "safe_call.h"
extern int foo, numbers[], zeros[];
extern const int constant;
int fn(void);
static int own;
int* volatile p = &own;
int* volatile stored = &foo;
int (*volatile function)(void) = fn;
__asm__(".pushsection .data\\n narrow: .long foo\\n .popsection");
extern unsigned narrow __attribute__((visibility("hidden")));
EXPORT(run) {
  foo = 3 + (int)INT(0);
  zeros[INT(0)] += 1;
  p = &own;
  stored = &numbers[INT(0)];
  function = fn;
  RETURN(foo + function() * 10 + *stored * 100 + zeros[0] * 10000 + constant * 1000000);
}
EXPORT(foo) { RETURN(*(int*)(uintptr_t)narrow); }
EXPORT(where) { RETURN(narrow); }
EXPORT(where_fn) { RETURN((intptr_t)fn); }
"""
DEFINERS = {"absolute": ABSOLUTE_DEFINER, "relative": DEFINER}
READERS = {"absolute": ABSOLUTE_READER, "indexing": INDEXING_READER, "relative": READER}
# What a linked library can have in the place of the first, which gives the same.
FOR_THE_LINKER = {**READERS, "absolute": INDEXING_READER}


@pytest.mark.parametrize("level", ["-O0", "-O2"])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("definer", DEFINERS)
@pytest.mark.parametrize("how", ["together", "one dylib", "link order"])
@one_way_each
def test_variables_of_an_earlier_load(
    session: tol.Session,
    compile: Compiler,
    toolchain: Toolchain,
    how: str,
    definer: str,
    reader: str,
    level: str,
) -> None:
    flags = fixed(level, toolchain)
    first = compile(DEFINERS[definer], *flags, toolchain=toolchain, name="definer")
    second = compile(READERS[reader], *flags, toolchain=toolchain, name="reader")
    if how == "together":
        dylib = definers = session.load([first, second])
    elif how == "one dylib":
        dylib = definers = session.load(first)
        dylib.load(second)
    else:
        definers = session.load(first)
        dylib = session.load(second, link_order=[definers])
    plain = [compile(source, *PIC) for source in (DEFINER, FOR_THE_LINKER[reader])]
    assert results(dylib) == results(compile.dlopen(*plain))
    address = definers.lookup("foo")
    assert dylib["where"](0) == address == dylib.lookup("foo")
    variable = ctypes.c_int.from_address(address)
    assert variable.value == dylib["foo"](0) == 6
    variable.value = 77
    assert dylib["foo"](0) == 77
    assert dylib["run"](0) % 10 == 3
    assert variable.value == 3
    if how == "together":
        assert dylib["where_fn"](0) == definers.lookup("fn")


@one_way_each
def test_many_loads_after_each_other(
    session: tol.Session, compile: Compiler, toolchain: Toolchain
) -> None:
    flags = fixed("-O2", toolchain)
    dylib = session.create_dylib()
    for number in range(12):
        before = number - 1
        source = f"""
        #include "safe_call.h"
        int variable_{number} = {number};
        {f"extern int variable_{before};" if number else ""}
        static int own;
        int* volatile p_{number} = &own;
        EXPORT(get_{number}) {{
          {f"p_{number} = INT(0) ? &variable_{before} : &own;" if number % 3 else ""}
          RETURN(variable_{number}{f" + 100 * variable_{before}" if number else ""});
        }}
        EXPORT(set_{number}) {{ RETURN(variable_{number} = INT(0)); }}
        """
        dylib.load(compile(source, *flags, toolchain=toolchain))
        if number:
            dylib[f"set_{before}"](number + 50)
            assert dylib[f"get_{number}"](1) == number + 100 * (number + 50)


@one_way_each
def test_position_dependent_code_is_loaded_beside_much_else(
    session: tol.Session, compile: Compiler, toolchain: Toolchain, add_object: Path
) -> None:
    kept = [session.load(add_object) for _ in range(50)]
    flags = fixed("-O2", toolchain)
    first = compile(ABSOLUTE_DEFINER, *flags, toolchain=toolchain)
    second = compile(ABSOLUTE_READER, *flags, toolchain=toolchain)
    for _ in range(50):
        base = session.load(first)
        kept.append(session.load(second, link_order=[base]))
        assert kept[-1]["run"](1) == 4 + 70 + 200 + 9000000
        kept.append(session.load(add_object))
    assert all(dylib["add"](1, 2) == 3 for dylib in kept if "add" in dylib)


# Variables of libraries that change: what is read is what is there, or the load is refused.

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


def test_what_has_no_room_below_2_gib_is_said(session: tol.Session, compile: Compiler) -> None:
    source = """
    #include "safe_call.h"
    static char large[MIB << 20];
    EXPORT(get) { large[INT(0)] = 7; RETURN(large[INT(0)] + large[INT(0) + 1]); }
    """
    small = compile(source, "-O2", "-fno-pic", "-DMIB=256")
    assert session.load(small)["get"](5) == 7
    large = compile(source, "-O2", "-fno-pic", "-DMIB=1536")
    with pytest.raises(tol.LinkError, match=r"without -fPIC(.|\n)*below 2 GiB(.|\n)*-fPIC"):
        session.load(large)
    assert session.load(compile(source, "-O2", "-fPIC", "-DMIB=1536"))["get"](5) == 7
