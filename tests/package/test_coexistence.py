# SPDX-License-Identifier: Apache-2.0
"""Beside another LLVM in the process, and with the wrong tvm-ffi."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compilation import Compiler
from conftest import RunScript

BOTH = """
import sys
order, thrower, add = sys.argv[1:]


def use_llvmlite():
    import ctypes
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(
        "define i64 @triple(i64 %x) { %y = mul i64 %x, 3 ret i64 %y }"
    )
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    address = engine.get_function_address("triple")
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)(14) == 42
    return engine


def use_object_loader():
    import tvm_ffi_object_loader as tol

    session = tol.Session()
    assert session.load(add)["add"](40, 2) == 42
    assert session.load(thrower)["catch_it"](5) == 6
    try:
        session.load(b"no object")
    except tol.ObjectFormatError:
        pass
    return session


uses = [use_llvmlite, use_object_loader]
kept = [use() for use in (uses if order == "llvmlite first" else uses[::-1])]
kept += [use() for use in uses * 2]
print("both work")
"""
THROWER = """
#include "safe_call.h"
#include <stdexcept>
__attribute__((noinline)) static void throw_it(int64_t n) { if (n) throw std::runtime_error("x"); }
EXPORT(catch_it) {
  try { throw_it(INT(0)); } catch (const std::exception& e) { RETURN(INT(0) + 1); }
  RETURN(0);
}
"""


@pytest.mark.parametrize("order", ["llvmlite first", "llvmlite second"])
def test_llvmlite_in_the_same_process(
    compile: Compiler, add_object: Path, run_script: RunScript, order: str
) -> None:
    pytest.importorskip("llvmlite")
    assert run_script(BOTH, order, compile.cxx(THROWER), add_object) == "both work\n"


def test_an_older_tvm_ffi_is_an_import_error_that_says_so() -> None:
    script = """
import tvm_ffi
tvm_ffi.__version__ = "0.1.3"
tvm_ffi.__version_tuple__ = (0, 1, 3)
import tvm_ffi_object_loader
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "apache-tvm-ffi >= " in last
    assert "0.1.3" in last
    assert "pip install" in last


def test_a_tvm_ffi_that_does_not_say_its_version_is_an_import_error_that_does(
    tmp_path: Path,
) -> None:
    (tmp_path / "tvm_ffi").mkdir()
    (tmp_path / "tvm_ffi/__init__.py").touch()
    (tmp_path / "apache_tvm_ffi-0.1.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.4\nName: apache-tvm-ffi\nVersion: 0.1.0\n"
    (tmp_path / "apache_tvm_ffi-0.1.0.dist-info/METADATA").write_text(metadata)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tvm_ffi_object_loader"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "ImportError: tvm_ffi_object_loader needs apache-tvm-ffi >= 0.1.9, but 0.1.0 is installed: "
        "pip install --upgrade apache-tvm-ffi"
    )
