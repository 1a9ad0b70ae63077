# SPDX-License-Identifier: Apache-2.0
"""The examples in docs/ run and give what they say."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler
from pages import Page, run_command

PAGE = Page("docs/inspect.md")
FLAGS = ("-O1", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")
SOURCE = """
#include <tvm/ffi/function.h>
int64_t Function(int64_t a, int64_t b) {{ return a {operator} b; }}
TVM_FFI_DLL_EXPORT_TYPED_FUNC({name}, Function);
{documentation}
"""

pytestmark = PAGE.needed


@pytest.fixture
def folder(compile: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (scale,) = PAGE.blocks("cpp")
    add = 'TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(add, "Add two integers.");'
    for name, operator, documentation in (("add", "+", add), ("scale", "*", scale)):
        source = SOURCE.format(name=name, operator=operator, documentation=documentation)
        shutil.copy(compile.cxx(source, *FLAGS, name=name), tmp_path / f"{name}.o")
    for name in ("a", "b"):
        shutil.copy(compile(f"int {name};\n", name=name), tmp_path / f"{name}.o")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_examples(folder: Path) -> None:
    assert PAGE.run({"tol": tol, "inspect": inspect}) == 13


def test_the_commands(folder: Path) -> None:
    (block,) = PAGE.blocks("sh")
    lines = [line.split("#")[0] for line in block.splitlines()]
    assert len(lines) == 8
    for line in lines:
        program, arguments = line.split(" ", 1)
        assert program == "tvm-ffi-object-loader"
        result = run_command(f"python -m tvm_ffi_object_loader {arguments}")
        assert result.returncode == 0, result.stderr
