# SPDX-License-Identifier: Apache-2.0
"""The examples in docs/ run and give what they say."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tvm_ffi_object_loader as tol
from compilation import Compiler

DOCS = Path(__file__).parent.parent / "docs"
FLAGS = ("-O1", "-fPIC", "-DTVM_FFI_DLL_EXPORT_INCLUDE_METADATA=1")
SOURCE = """
#include <tvm/ffi/function.h>
int64_t Function(int64_t a, int64_t b) {{ return a {operator} b; }}
TVM_FFI_DLL_EXPORT_TYPED_FUNC({name}, Function);
{documentation}
"""

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is not here")


def blocks(page: str, language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(compile: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (scale,) = blocks("inspect.md", "cpp")
    add = 'TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(add, "Add two integers.");'
    for name, operator, documentation in (("add", "+", add), ("scale", "*", scale)):
        source = SOURCE.format(name=name, operator=operator, documentation=documentation)
        shutil.copy(compile.cxx(source, *FLAGS, name=name), tmp_path / f"{name}.o")
    for name in ("a", "b"):
        shutil.copy(compile(f"int {name};\n", name=name), tmp_path / f"{name}.o")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_examples(folder: Path) -> None:
    names: dict[str, Any] = {"tol": tol, "inspect": inspect}
    checked = 0
    for block in blocks("inspect.md", "python"):
        for line in block.splitlines():
            found = re.fullmatch(r"(\S.*?)  # (.+)", line)
            if found is None:
                exec(line, names)
                continue
            assert eval(found[1], names) == eval(found[2], {}), line
            checked += 1
    assert checked >= 13


def test_the_commands(folder: Path) -> None:
    (block,) = blocks("inspect.md", "sh")
    ran = 0
    for line in block.splitlines():
        program, *arguments = line.split("#")[0].split()
        assert program == "tvm-ffi-object-loader"
        command = [sys.executable, "-m", "tvm_ffi_object_loader", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        ran += 1
    assert ran == 8
