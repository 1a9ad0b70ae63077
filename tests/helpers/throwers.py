# SPDX-License-Identifier: Apache-2.0
"""Objects whose functions throw and catch, and objects that end the table of their records."""

from __future__ import annotations

from pathlib import Path

import tvm_ffi_object_loader as tol
from compilation import GCC, Compiler, Toolchain

# Functions by which exceptions pass: one that throws, and what catches them.
THROWER = """
#include <stdexcept>
#include <string>
#include "safe_call.h"
extern "C" __attribute__((noinline)) int64_t NAME(int64_t n) {
  std::string text = "a text that is too long for its object to hold";
  if (n == 1) throw std::out_of_range(text + std::to_string(n));
  if (n == 2) throw n;
  return n + FACTOR;
}
EXPORT(EXPORTED) {
  int64_t result;
  try {
    result = NAME(INT(0));
  } catch (const std::exception& error) {
    result = std::string(error.what()).size() * FACTOR;
  } catch (int64_t n) {
    result = n * FACTOR;
  }
  RETURN(result);
}
"""
ARGUMENTS = (0, 1, 2, 3)
FACTORS = {"a": 10, "b": 1000, "c": 100000}


def thrower(
    compile: Compiler, name: str, *flags: str, toolchain: Toolchain = GCC, text: str = THROWER
) -> Path:
    """Return an object with the function ``run_NAME``, which throws and catches."""
    definitions = (f"-DNAME=f_{name}", f"-DEXPORTED=run_{name}", f"-DFACTOR={FACTORS[name]}")
    flags = flags or ("-O2", "-fPIC")
    return compile.cxx(text, *flags, *definitions, toolchain=toolchain, name=name)


def agree(
    session: tol.Session, compile: Compiler, objects: list[Path], names: str, plain: list[Path]
) -> None:
    """The functions give what they do after `plain` was linked."""
    loaded = session.load(objects)
    dlopened = compile.dlopen(*plain)
    for name in names:
        results = [loaded[f"run_{name}"](argument) for argument in ARGUMENTS]
        assert results == [dlopened[f"run_{name}"](argument) for argument in ARGUMENTS]
        assert results[0] == FACTORS[name]
        assert results[2] == 2 * FACTORS[name]


SECTION = '.section .eh_frame, "a", {}\n{}\n.section .note.GNU-stack, "", @progbits\n'


def end(compile: Compiler, marks: str = ".long 0", kind: str = "@progbits") -> Path:
    """Return an object that holds nothing but the end of the table, as crtend.o does."""
    return compile(SECTION.format(kind, marks), language="assembler", name="end")
