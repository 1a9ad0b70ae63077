# SPDX-License-Identifier: Apache-2.0
"""C++ compiled with -fno-pic: typed functions, exceptions, classes of the standard library."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tvm_ffi

import tvm_ffi_object_loader as tol
from compilation import Compiler, Toolchain
from position_dependent import PIC, addresses_of_32_bits, every_way, fixed

pytestmark = [pytest.mark.matrix, addresses_of_32_bits]


def types_of(path: Path) -> set[str]:
    """Return the types of the object's relocations."""
    said = subprocess.run(["readelf", "-rW", path], check=True, capture_output=True, text=True)
    return set(re.findall(r"R_X86_64_\w+", said.stdout))


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
